"""Values that flow between stages, and the store that keeps them by content."""
