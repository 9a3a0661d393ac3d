"""``python -m edgeres``."""

from edgeres.cli import main

raise SystemExit(main())
