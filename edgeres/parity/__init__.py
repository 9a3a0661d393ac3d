"""Parity: the same images through every runtime that takes a run's graph, and through exact integers."""
