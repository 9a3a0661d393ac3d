"""Quantization: parameters, histograms, calibrators, Q/DQ placement, fake quantization and algorithms."""
