"""``edgeres build``: a finished run's engine or bundle again; or, from a device bundle, the engine on this device."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli._compilation import add_stage_parser, run_again
from edgeres.cli._options import EXIT_CODES, Commands, Options
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.cli._console import Screen

PLACE = 50

_BUNDLE = (
    "RUN may be a device bundle: then every file's sha256 is checked and its engine is built, compared and timed on "
    "this device, without torch. This needs edgeres on the device, so Python 3.11 or newer; with an older one, as in "
    "JetPack 4 to 6, the commands in the bundle's README.md do it. exit codes of that: 0 done, 1 the build failed or "
    "golden answers differ, 2 damaged, 3 no TensorRT or no GPU here. Of a run: "
)
_RUN_OPTIONS = {"out": "--out", "changes": "--set", "budget": "--budget", "strict": "--strict", "cache": "--cache"}
"""Options that apply to a run and not to a bundle."""


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres build``."""
    help_text = "build a finished run's engine or device bundle again; on a device, the engine of a bundle"
    command = add_stage_parser(commands, "build", help_text)
    command.epilog = f"{_BUNDLE}{EXIT_CODES}"


def run(options: Options, screen: Screen) -> int:
    """Builds the engine of a run or of a bundle."""
    if is_bundle(Path(options.run)):
        return _build_on_device(Path(options.run), options, screen)
    return run_again(options, screen)


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a device bundle, whose manifest has a format; a run's manifest has none."""
    try:
        manifest: Any = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # A bundle with a damaged manifest: the check of its files gives a better message than a missing run does.
        return (folder / "SHA256SUMS").is_file()
    return isinstance(manifest, dict) and "format" in manifest


def _build_on_device(folder: Path, options: Options, screen: Screen) -> int:
    """Builds, compares, times, and writes ``device.json``, with the code that is in the bundle too.

    The exit code is 0 or that of ``build_engine.py``: 1 failed, 2 damaged, 3 no TensorRT or no GPU here.
    """
    from edgeres.backends.bundle import build_engine, device

    values = vars(options)
    for name, option in _RUN_OPTIONS.items():
        if values[name]:
            hint = "leave it out, or compile again with it and copy the new bundle"
            raise UsageError(f"{option} does not apply to {folder}: a bundle is sealed", hint)
    console = screen.err if options.json or options.quiet else screen.out
    try:
        build_engine.run(folder, check_only=False, say=lambda line: console.out(line, highlight=False))
    except device.BundleError as failure:
        print(f"edgeres: {failure}", file=sys.stderr)
        return failure.exit_code
    report = folder / device.REPORT
    if options.json:
        screen.out.out(report.read_text(encoding="utf-8"), end="")
    else:
        screen.out.out(f"device report: {report}; on the host that compiled it: edgeres measured RUN {device.REPORT}")
    return 0
