"""Lint: offline conformance rules for exported graphs, and repairs."""
