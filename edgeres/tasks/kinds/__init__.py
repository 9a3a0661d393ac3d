"""The tasks, one in each file."""
