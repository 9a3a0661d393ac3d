"""``edgeres lint``: what a target will refuse, misread or run slowly, told offline; with ``--fix``, repaired."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli.console import Screen
from edgeres.errors import StoreError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from onnx import ModelProto

    from edgeres.lint.fixer import Fixed
    from edgeres.lint.integer_coverage import IntegerCoverage
    from edgeres.lint.rule import Finding, Rule
    from edgeres.targets.target import Target

_SEVERITY = {"E": "error", "W": "warning", "I": "info"}
_SHOWN = 12
"""Nodes left in float that the table names one by one."""


def lint_command(options: Namespace, given: list[str]) -> int:
    """Reads a graph, asks every rule of the target, and with ``--fix`` writes a repaired graph beside it."""
    from edgeres.lint.families import rules_for
    from edgeres.lint.integer_coverage import integer_coverage_of
    from edgeres.lint.linter import lint
    from edgeres.onnx_graph.read import read_model
    from edgeres.targets.target import find_target

    target = find_target(options.target)
    out = _new(options.fix, Path(options.model)) if options.fix else None
    only = _only(options.only, rules_for(target, accelerator=options.dla)[0]) if options.only else None
    model = read_model(Path(options.model))
    findings = lint(model, target, accelerator=options.dla)
    fixed = _fixed(model, target, out, only) if out is not None else None
    if fixed is not None:
        model, left = fixed.model, lint(fixed.model, target, accelerator=options.dla)
    else:
        left = findings
    census = integer_coverage_of(model, target)
    if options.sarif:
        rules, _ = rules_for(target, accelerator=options.dla)
        _sarif(Path(options.sarif), left, rules, Path(options.fix if fixed and fixed.repairs else options.model))
    if options.json:
        _print_json(options, findings, census, fixed)
    else:
        _print(options, findings, census, fixed)
    return 3 if any(finding.severity == "E" for finding in left) else 0


def _new(place: str, given: Path) -> Path:
    """The file to write, if nothing is there yet.

    Raises:
        UsageError: Something is: neither the given graph nor anybody's file is overwritten.
    """
    out = Path(place)
    if out.exists() or out.is_symlink() or out.resolve() == given.resolve():
        raise UsageError(f"--fix {place}: the file is there already", "name a new file")
    if not out.parent.is_dir():
        raise UsageError(f"--fix {place}: there is no folder {out.parent}", "name a file in a folder that exists")
    return out


def _only(text: str, rules: Sequence[Rule]) -> frozenset[str]:
    """Rules named on the command line.

    Raises:
        UsageError: One of them is no rule of this target.
    """
    known = {rule.id for rule in rules}
    names = frozenset(name.strip().upper() for name in text.split(",") if name.strip())
    if unknown := sorted(names - known):
        raise UsageError(f"--only: {unknown[0]!r} is no rule of this target", f"known: {', '.join(sorted(known))}")
    return names


def _fixed(model: ModelProto, target: Target, out: Path, only: frozenset[str] | None) -> Fixed:
    from edgeres.lint.fixer import fix

    fixed = fix(model, target, only=only)
    if fixed.repairs:
        _write(out, fixed.model.SerializeToString(deterministic=True))
    return fixed


def _write(path: Path, data: bytes) -> None:
    """Writes beside, then renames: a file is never half there."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as failure:
        beside.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {failure.strerror}", "name a file in a folder you may write"
        ) from failure


def _sarif(path: Path, findings: Sequence[Finding], rules: Sequence[Rule], model: Path) -> None:
    from edgeres.report.sarif import lint_sarif

    whole, here = model.resolve(), Path.cwd()
    name = whole.relative_to(here).as_posix() if whole.is_relative_to(here) else whole.as_posix()
    _write(path, lint_sarif(findings, rules, name).encode())


def _print_json(options: Namespace, findings: Sequence[Finding], census: IntegerCoverage, fixed: Fixed | None) -> None:
    found: dict[str, Any] = {
        "model": options.model,
        "target": options.target,
        "findings": [asdict(finding) for finding in findings],
        "census": asdict(census),
    }
    if fixed is not None:
        found["fix"] = {
            "file": options.fix if fixed.repairs else None,
            "repairs": [asdict(repair) for repair in fixed.repairs],
            "left": [asdict(finding) for finding in fixed.left],
            "max_relative_delta_logit": fixed.relative,
            "agreement": fixed.agreement,
        }
    print(json.dumps(found, indent=2, allow_nan=False))


def _print(options: Namespace, findings: Sequence[Finding], census: IntegerCoverage, fixed: Fixed | None) -> None:
    screen = Screen(quiet=False)
    if findings:
        rules = dict.fromkeys(finding.rule for finding in findings)
        grouped = [[finding for finding in findings if finding.rule == rule] for rule in rules]
        screen.table(
            ("rule", "severity", "times", "first at", "what", "fix"),
            ((f[0].rule, _SEVERITY[f[0].severity], str(len(f)), f[0].where, f[0].what, f[0].fix) for f in grouped),
        )
    else:
        screen.out.print(f"nothing to say about {options.model} for {options.target}")
    if fixed is not None:
        _print_fix(screen, options, fixed)
    after = " after the repairs" if fixed is not None and fixed.repairs else ""
    for line in _census_lines(census, after):
        screen.line(line)


def _print_fix(screen: Screen, options: Namespace, fixed: Fixed) -> None:
    screen.out.out("")
    if not fixed.repairs:
        screen.line("nothing here can be repaired mechanically; no file was written")
        return
    screen.table(
        ("repaired", "places", "what", "proof on random images"),
        (
            (", ".join(done.rules), str(done.places), done.title, _proof(done.proof.relation, done.proof.steps))
            for done in fixed.repairs
        ),
    )
    screen.out.out(
        f"{options.fix}: logits within {fixed.relative:.2g} of their range, top-1 agreement {fixed.agreement:.0%}; "
        f"{_left(fixed.left)}",
        highlight=False,
    )


def _left(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing is left to say"
    rules = dict.fromkeys(finding.rule for finding in findings)
    return f"left: {', '.join(rules)}"


def _proof(relation: str, steps: float) -> str:
    match relation:
        case "equal":
            return "every tensor equal"
        case "half":
            return f"within FP16 rounding ({steps:.0%} of what is allowed)"
    return f"within one quantization step (at most {steps:.2f})"


def _census_lines(census: IntegerCoverage, after: str) -> tuple[str, ...]:
    expected = f" (a clean graph has {census.expected_quantizers})" if census.expected_quantizers is not None else ""
    lines = [
        f"census{after}: {census.quantizers} activation quantizers on {census.tensors} tensors{expected}, "
        f"{census.weights} of {census.weighted} weights are integers",
        f"expected kernels: {census.fused_kernels} integer of {census.weighted}, "
        f"{census.fused_adds} of {census.adds} residual adds fused into them",
    ]
    if census.repeated:
        lines.append(f"quantized more than once: {', '.join(census.repeated[:_SHOWN])}")
    if census.in_float:
        lines.append("in float:")
        lines += [f"  {entry.kind} {entry.node}: {entry.why}" for entry in census.in_float[:_SHOWN]]
        if len(census.in_float) > _SHOWN:
            lines.append(f"  and {len(census.in_float) - _SHOWN} more (--json lists all)")
    return tuple(lines)
