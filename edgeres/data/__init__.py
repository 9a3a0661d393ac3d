"""Images: sources, splits disjoint by content, and the preprocessing that travels with the weights."""
