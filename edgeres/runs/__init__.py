"""Finished runs: the report as one value, read from ``report.json``, with its graphs and predictions."""
