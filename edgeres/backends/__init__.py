"""Backends: one adapter per runtime, which builds engines and opens sessions."""
