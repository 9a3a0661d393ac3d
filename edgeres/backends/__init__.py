"""Backends: one adapter per runtime, all behind the same two nouns, engine and session."""
