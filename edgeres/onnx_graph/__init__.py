"""Interchange: ONNX files read with care, written from a spec, counted, rewritten."""
