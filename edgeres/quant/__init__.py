"""Quantization: parameters, streaming histograms, calibrators, and where a target wants its Q/DQ pairs."""
