"""Offline conformance rules for exported graphs."""
