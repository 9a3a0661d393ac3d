"""Exact integer reference of a quantized network: its Q/DQ graph computed without rounding errors of a runtime."""
