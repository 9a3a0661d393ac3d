"""Latency: rooflines, lookup tables and predictions for devices that are not here, timers for the one that is."""
