"""Data: image sources, splits disjoint by content, and preprocessing."""
