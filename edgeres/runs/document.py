"""Conversion of ``Run`` to and from ``report.json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgeres.artifacts.results import StageMetrics
from edgeres.errors import UsageError
from edgeres.runs.run import SCHEMA, Run
from edgeres.runs.verdict import exit_code, headline, line_counts, outcome
from edgeres.settings import canonical, parse, parse_json, plain, read_text

if TYPE_CHECKING:
    from pathlib import Path

_BEFORE = ("edgeres.report/1", "edgeres.report/2", "edgeres.report/3")
"""Earlier schema versions that are read too. Fields added since have a default, renamed ones are in ``_RENAMED``."""

_RENAMED = {
    "way_out": "hint",
    "rungs": "techniques",
    "laps": "timings",
    "outlook": "predicted_status",
    "over_twin": "over_float",
    "float_top1": "float_score",
    "deployed_top1": "deployed_score",
}
JSON = "report.json"


def encode(run: Run) -> str:
    """The run with its verdict as JSON text; equal runs give equal text."""
    facts: dict[str, Any] = json.loads(canonical(plain(run)))
    facts = {field: facts[field] for field in Run.__dataclass_fields__}  # declared order; below it, sorted keys
    document = {"schema": facts.pop("schema"), "verdict": _verdict(run), **facts}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _verdict(run: Run) -> dict[str, object]:
    lines = {status: line_counts(run)[status] for status in ("passed", "failed", "unmeasured")}
    return {"status": outcome(run), "exit_code": exit_code(run), "headline": headline(run), "lines": lines}


def decode(text: str, where: str) -> Run:
    """Reads the text of ``report.json``; ``UsageError`` also for a verdict that its facts do not support."""
    again = "compile again to write it anew"
    document = parse_json(text, where, again)
    if not isinstance(document, dict):
        raise UsageError(f"{where} holds no report", again)
    if document.get("schema") in _BEFORE:
        document = {**_with_new_names(document), "schema": SCHEMA}
    if document.get("schema") != SCHEMA:
        raise UsageError(
            f"{where} has schema {document.get('schema')!r}; this edgeres reads {SCHEMA!r}",
            "render it with the edgeres that wrote it",
        )
    verdict = document.pop("verdict", None)
    run = parse(Run, document, where)
    own_words = {"headline": ""}  # its wording may differ between versions of edgeres
    if not isinstance(verdict, dict) or {**verdict, **own_words} != {**_verdict(run), **own_words}:
        raise UsageError(f"{where}: its verdict is not what its facts amount to", again)
    return run


def _with_new_names(document: dict[str, Any]) -> dict[str, Any]:
    """An older document with the keys of this version: in its error, stages, accuracy, lines and timings."""
    renamed = _renamed(document, ("error", "stages", "lines", "accuracy"))
    if isinstance(timings := document.get("timings"), dict):
        renamed["timings"] = _renamed(timings, ("stages", "lines"))
        if isinstance(bench := timings.get("bench"), dict):
            renamed["timings"]["bench"] = _renamed(bench, ("rows",))
    return renamed


def _renamed(document: dict[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    """A document with the keys of this version in some parts, each one object or a list of them."""

    def keys(value: Any) -> Any:
        if isinstance(value, list):
            return [keys(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {_RENAMED.get(key, key): _known(one) if key == "metrics" else one for key, one in value.items()}

    return {**document, **{part: keys(document[part]) for part in parts if part in document}}


def _known(metrics: Any) -> Any:
    """Metrics of a stage without those that only earlier versions measured."""
    names = StageMetrics.__dataclass_fields__
    if not isinstance(metrics, dict):
        return metrics
    return {name: value for name, value in metrics.items() if name in names or name.startswith("expected_ms_")}


def folder_of(place: Path) -> Path:
    """A run folder, from its own path or that of its report."""
    return place.parent if place.name == JSON else place


def load(folder: Path, hint: str = "name the folder of a run, such as build/resnet18-x86") -> Run:
    """Reads the ``report.json`` of a run folder as ``decode`` does; the hint is that of a folder without one."""
    source = folder / JSON
    return decode(read_text(source, hint), str(source))
