"""Reports of a run: ``report.md``, ``report.html`` and CI formats, drawn from ``report.json`` alone."""
