"""A finished run: its report as one value, read from ``report.json``, with its graphs and predictions."""
