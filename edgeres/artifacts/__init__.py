"""Artifacts: the values passed between stages, and the store that caches them by content."""
