"""Quantization algorithms under the names of their papers."""
