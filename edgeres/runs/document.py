"""``report.json`` to and from ``Run``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgeres.errors import UsageError
from edgeres.runs.run import SCHEMA, Run
from edgeres.runs.verdict import exit_code, headline, line_counts, outcome
from edgeres.settings import canonical, parse, plain

if TYPE_CHECKING:
    from pathlib import Path

_BEFORE = "edgeres.report/1"
"""What was added since has a default, so its documents are read as well: baselines and runs are kept for long."""
JSON = "report.json"


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
