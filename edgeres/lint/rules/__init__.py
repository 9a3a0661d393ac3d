"""Lint rules by runtime."""
