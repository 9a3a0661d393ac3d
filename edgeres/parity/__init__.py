"""Parity study: one graph in every runtime of this host and in exact integers, compared layer by layer."""
