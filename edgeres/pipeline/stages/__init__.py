"""Stages: pure functions from one frozen artifact to the next; their fields are their recipe entries."""
