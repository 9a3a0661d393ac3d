"""The report of a run: ``report.json`` is the truth, ``report.md`` and ``report.html`` are drawn from it alone."""
