"""Structured pruning: coupling groups and allocation of channels."""
