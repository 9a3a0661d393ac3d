"""Accuracy gate: paired statistics on predictions, and budget limits."""
