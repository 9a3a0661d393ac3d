"""Bench: one network on every runtime of this host, each in a process of its own, taking turns."""
