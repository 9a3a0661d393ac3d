"""Latency: timers and lookup tables of this host, rooflines and predictions for other devices."""
