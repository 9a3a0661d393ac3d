"""``report.json`` to and from ``Run``, and the three files of a report.

The pages are drawn from the value that was read back from JSON, so nothing reaches them that the JSON does not say.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgeres.errors import StoreError, UsageError
from edgeres.report.html import html
from edgeres.report.markdown import markdown
from edgeres.report.run import SCHEMA, Run
from edgeres.report.verdict import exit_code, headline, line_counts, outcome
from edgeres.settings import canonical, parse, plain

if TYPE_CHECKING:
    from pathlib import Path

_BEFORE = "edgeres.report/1"
"""What was added since has a default, so its documents are read as well: baselines and runs are kept for long."""
JSON, MARKDOWN, HTML = NAMES = "report.json", "report.md", "report.html"


def encode(run: Run) -> str:
    """``report.json``: the run with its verdict beside the schema version; equal runs give equal text."""
    facts: dict[str, Any] = json.loads(canonical(plain(run)))
    facts = {field: facts[field] for field in Run.__dataclass_fields__}  # declared order; below it, sorted keys
    document = {"schema": facts.pop("schema"), "verdict": _verdict(run), **facts}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _verdict(run: Run) -> dict[str, object]:
    counts = line_counts(run)
    return {
        "status": outcome(run),
        "exit_code": exit_code(run),
        "headline": headline(run),
        "lines": {status: counts[status] for status in ("passed", "failed", "unmeasured")},
    }


def _judged(verdict: dict[str, object]) -> dict[str, object]:
    """A verdict without its headline: another version of edgeres may say the same in other words."""
    return {key: value for key, value in verdict.items() if key != "headline"}


def decode(text: str, where: str) -> Run:
    """Reads ``report.json``.

    Raises:
        UsageError: No JSON, another schema version, an unknown or ill-typed field, or a verdict that the facts do not
            support.
    """
    again = "compile again to write it anew"
    try:
        document: Any = json.loads(text)
    except ValueError as failure:
        raise UsageError(f"{where} is no JSON: {failure}", again) from failure
    if not isinstance(document, dict):
        raise UsageError(f"{where} holds no report", again)
    if document.get("schema") == _BEFORE:
        document["schema"] = SCHEMA
    if document.get("schema") != SCHEMA:
        raise UsageError(
            f"{where} has schema {document.get('schema')!r}; this edgeres reads {SCHEMA!r}",
            "render it with the edgeres that wrote it",
        )
    verdict = document.pop("verdict", None)
    run = parse(Run, document, where)
    if not isinstance(verdict, dict) or _judged(verdict) != _judged(_verdict(run)):
        raise UsageError(f"{where}: its verdict is not what its facts amount to", again)
    return run


def write(run: Run, folder: Path) -> tuple[Path, ...]:
    """Writes the three files of a report, each beside its place and then renamed into it.

    Args:
        run: What to report.
        folder: The run folder, which exists.

    Returns:
        Paths of ``report.json``, ``report.md`` and ``report.html``.

    Raises:
        StoreError: The folder cannot be written.
    """
    text = encode(run)
    return _place(folder, {JSON: text, **_pages(decode(text, JSON))})


def render(folder: Path) -> tuple[Path, ...]:
    """Draws ``report.md`` and ``report.html`` again from the ``report.json`` of a run folder.

    Raises:
        UsageError: There is no readable ``report.json``; see ``decode``.
        StoreError: The folder cannot be written.
    """
    return _place(folder, _pages(load(folder)))


def load(folder: Path) -> Run:
    """Reads the ``report.json`` of a run folder.

    Raises:
        UsageError: There is none that can be read; see ``decode``.
    """
    source = folder / JSON
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise UsageError(
            f"cannot read {source}: {getattr(failure, 'strerror', None) or failure}",
            "name the folder of a run, such as build/resnet18-x86",
        ) from failure
    return decode(text, str(source))


def _pages(run: Run) -> dict[str, str]:
    return {MARKDOWN: markdown(run), HTML: html(run)}


def _place(folder: Path, texts: dict[str, str]) -> tuple[Path, ...]:
    for name, text in texts.items():
        beside = folder / f".{name}.part"
        try:
            beside.write_text(text, encoding="utf-8", newline="\n")
            beside.replace(folder / name)
        except OSError as failure:
            raise StoreError(
                f"cannot write {folder / name}: {failure.strerror}", "free the disk or choose --out"
            ) from failure
    return tuple(folder / name for name in texts)
