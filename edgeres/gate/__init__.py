"""The accuracy gate: paired statistics on predictions, and the limits of a budget."""
