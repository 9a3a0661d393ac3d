"""Lint rules, by the runtime that they are about."""
