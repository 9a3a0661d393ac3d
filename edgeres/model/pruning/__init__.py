"""Structured pruning: coupled channels, and how many of them may stay."""
