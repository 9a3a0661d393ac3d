"""``edgeres lint``: offline findings on what a target refuses, misreads or runs slowly; ``--fix`` repairs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.cli._options import Commands, Options, text
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.cli._console import Screen
    from edgeres.lint.integer_coverage import IntegerCoverage
    from edgeres.lint.linter import Fixed
    from edgeres.lint.rule import Finding, Rule

PLACE = 100

_SEVERITY = {"E": "error", "W": "warning", "I": "info"}
_WRITABLE = "name a file in a folder you may write"
_SHOWN = 12  # most nodes left in float that the output lists


def add_parser(commands: Commands) -> None:
    """Adds ``edgeres lint``."""
    codes = "exit codes: 0 no errors, 1 a repair could not be proven, 2 bad usage or input, 3 errors found"
    help_text = "say offline what a target will refuse, misread or run slowly"
    add = commands.add_parser("lint", help=help_text, epilog=codes).add_argument
    add("model", type=text, metavar="FILE.onnx", help="any ONNX classifier")
    add("--target", type=text, required=True, help="where it goes, such as jetson-orin-nano:jp6.2")
    add("--dla", action="store_true", help="ask for a DLA of the module too")
    add("--fix", type=text, metavar="OUT.onnx", help="write a repaired graph to a new file; every repair is proven")
    add("--only", type=text, metavar="RULE,RULE", help="with --fix: repair findings of these rules")
    add("--sarif", type=text, metavar="FILE", help="write SARIF 2.1.0, for code scanning")
    add("--json", action="store_true", help="machine-readable output")


def run(options: Options, screen: Screen) -> int:
    """Checks a graph by every rule of the target; with ``--fix`` writes a repaired graph to a new file."""
    from edgeres.cli._console import relative_name, write_file
    from edgeres.lint.integer_coverage import integer_coverage_of
    from edgeres.lint.linter import fix, lint, rules_for
    from edgeres.onnx_graph.read import read_model
    from edgeres.report.ci_formats import lint_sarif
    from edgeres.targets.target import find_target

    target = find_target(options.target)
    out = _new_file(options.fix, Path(options.model)) if options.fix else None
    only = _rule_names(options.only, rules_for(target, accelerator=options.dla)[0]) if options.only else None
    model = read_model(Path(options.model))
    findings = lint(model, target, accelerator=options.dla)
    left, fixed = findings, None
    if out is not None:
        fixed = fix(model, target, only=only)
        if fixed.repairs:
            write_file(out, fixed.model.SerializeToString(deterministic=True), _WRITABLE)
        model, left = fixed.model, lint(fixed.model, target, accelerator=options.dla)
    coverage = integer_coverage_of(model, target)
    if options.sarif:
        rules, _ = rules_for(target, accelerator=options.dla)
        checked = relative_name(Path(options.fix if fixed and fixed.repairs else options.model))
        write_file(Path(options.sarif), lint_sarif(left, rules, checked).encode(), _WRITABLE)
    if options.json:
        screen.json(_document(options, findings, coverage, fixed))
    else:
        _print(options, findings, coverage, fixed, screen)
    return 3 if any(finding.severity == "E" for finding in left) else 0


def _new_file(name: str, model: Path) -> Path:
    """The path of the file to write, in a folder that exists: no file is overwritten."""
    out = Path(name)
    if out.exists() or out.is_symlink() or out.resolve() == model.resolve():
        raise UsageError(f"--fix {name}: the file is there already", "name a new file")
    if not out.parent.is_dir():
        raise UsageError(f"--fix {name}: there is no folder {out.parent}", "name a file in a folder that exists")
    return out


def _rule_names(names: str, rules: Sequence[Rule]) -> frozenset[str]:
    """The ids of the rules that ``--only`` names."""
    known = {rule.id for rule in rules}
    chosen = frozenset(name.strip().upper() for name in names.split(",") if name.strip())
    if unknown := sorted(chosen - known):
        raise UsageError(f"--only: {unknown[0]!r} is no rule of this target", f"known: {', '.join(sorted(known))}")
    return chosen


def _document(
    options: Options, findings: Sequence[Finding], coverage: IntegerCoverage, fixed: Fixed | None
) -> dict[str, Any]:
    document = {"model": options.model, "target": options.target, "findings": findings, "census": coverage}
    if fixed is None:
        return document
    repairs = {"file": options.fix if fixed.repairs else None, "repairs": fixed.repairs, "left": fixed.left}
    return {**document, "fix": {**repairs, "max_relative_delta_logit": fixed.relative, "agreement": fixed.agreement}}


def _print(
    options: Options, findings: Sequence[Finding], coverage: IntegerCoverage, fixed: Fixed | None, screen: Screen
) -> None:
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
    for line in _coverage_lines(coverage, after):
        screen.line(line)


def _print_fix(screen: Screen, options: Options, fixed: Fixed) -> None:
    screen.out.out("")
    if not fixed.repairs:
        screen.line("nothing here can be repaired mechanically; no file was written")
        return
    screen.table(
        ("repaired", "places", "what", "proof on random images"),
        ((", ".join(r.rules), str(r.places), r.title, _proof(r.proof.relation, r.proof.steps)) for r in fixed.repairs),
    )
    rules = ", ".join(dict.fromkeys(finding.rule for finding in fixed.left))
    screen.out.out(
        f"{options.fix}: logits within {fixed.relative:.2g} of their range, top-1 agreement {fixed.agreement:.0%}; "
        f"{f'left: {rules}' if rules else 'nothing is left to say'}",
        highlight=False,
    )


def _proof(relation: str, steps: float) -> str:
    """How close the repaired graph's tensors are to the original's."""
    if relation == "half":
        return f"within FP16 rounding ({steps:.0%} of what is allowed)"
    return "every tensor equal" if relation == "equal" else f"within one quantization step (at most {steps:.2f})"


def _coverage_lines(coverage: IntegerCoverage, after: str) -> tuple[str, ...]:
    """How many quantizers and integer kernels the graph has, and which nodes stay in float."""
    clean = coverage.expected_quantizers
    expected = f" (a clean graph has {clean})" if clean is not None else ""
    lines = [
        f"census{after}: {coverage.quantizers} activation quantizers on {coverage.tensors} tensors{expected}, "
        f"{coverage.weights} of {coverage.weighted} weights are integers",
        f"expected kernels: {coverage.fused_kernels} integer of {coverage.weighted}, "
        f"{coverage.fused_adds} of {coverage.adds} residual adds fused into them",
    ]
    if coverage.repeated:
        lines.append(f"quantized more than once: {', '.join(coverage.repeated[:_SHOWN])}")
    if coverage.in_float:
        lines.append("in float:")
        lines += [f"  {entry.kind} {entry.node}: {entry.why}" for entry in coverage.in_float[:_SHOWN]]
        if len(coverage.in_float) > _SHOWN:
            lines.append(f"  and {len(coverage.in_float) - _SHOWN} more (--json lists all)")
    return tuple(lines)
