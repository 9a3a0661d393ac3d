"""Stages of a recipe: pure functions from one frozen artifact to the next, whose fields are recipe settings."""
