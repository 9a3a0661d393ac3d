"""``edgeres build``: a finished run's engine or bundle again; or, from a device bundle, the engine on this device."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace

_OTHERS = {"out": "--out", "changes": "--set", "budget": "--budget", "strict": "--strict", "cache": "--cache"}
"""Options that mean something to a run alone."""


def build_command(options: Namespace, given: list[str]) -> int:
    """``edgeres build``."""
    if is_bundle(Path(options.run)):
        return _on_device(Path(options.run), options)
    from edgeres.cli.commands import again

    return again(options, given)


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a device bundle: its manifest has a format, and no run ever began there."""
    try:
        manifest: Any = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # A bundle whose manifest is damaged is still one: what checks its files says so better than a missing run does.
        return (folder / "SHA256SUMS").is_file()
    return isinstance(manifest, dict) and "format" in manifest


def _on_device(folder: Path, options: Namespace) -> int:
    """Builds, compares, times, and writes ``device.json``, by the very code that travels in the bundle.

    Returns:
        0, or the exit code of ``build_engine.py``: 1 failed, 2 damaged, 3 no TensorRT or no GPU here.

    Raises:
        UsageError: An option of a run was given.
    """
    from edgeres.backends.bundle import build_engine, device
    from edgeres.cli.console import Screen

    for name, option in _OTHERS.items():
        if getattr(options, name):
            hint = "leave it out, or compile again with it and copy the new bundle"
            raise UsageError(f"{option} does not apply to {folder}: a bundle is sealed", hint)
    screen = Screen(quiet=options.quiet)
    say = screen.err if options.json or options.quiet else screen.out
    try:
        build_engine.run(folder, check_only=False, say=lambda line: say.out(line, highlight=False))
    except device.BundleError as failure:
        print(f"edgeres: {failure}", file=sys.stderr)
        return failure.exit_code
    report = folder / device.REPORT
    if options.json:
        screen.out.out(report.read_text(encoding="utf-8"), end="")
    else:
        screen.out.out(f"device report: {report}; on the host that compiled it: edgeres measured RUN {device.REPORT}")
    return 0
