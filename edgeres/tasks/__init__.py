"""Tasks: what a network's outputs mean, and how the gate judges them."""
