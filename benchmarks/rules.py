"""Every lint rule as a table, from the rule objects themselves.

``python -m benchmarks.rules --write docs/lint.md`` keeps it between the markers of the document.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command import run
from benchmarks.table import markdown, with_block
from benchmarks.undecided import UNDECIDED
from edgeres.lint.linter import all_repairs, all_rules
from edgeres.lint.rule import FAMILIES, FIRST, LAST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.lint.rule import Family, Rule

MARKERS = "<!-- rules:begin -->", "<!-- rules:end -->"
_SEVERITY = {"E": "error", "W": "warning", "I": "info"}


def rules() -> str:
    """Families with their rules, then the laws without a rule."""
    parts = [_family(family) for family in FAMILIES]
    rows = ((entry.id, entry.law, entry.why) for entry in UNDECIDED)
    parts.append("### Laws that no look at a graph decides\n\n" + markdown(("id", "law", "why not"), rows, words=3))
    return "\n\n".join(parts)


def _family(family: Family) -> str:
    heads = ("id", "severity", "holds", "law", "repair", "otherwise", "source")
    rows = (_row(rule) for rule in all_rules() if rule.family == family)
    return f"### {family.title}\n\n{markdown(heads, rows, words=7)}"


def _row(rule: Rule) -> tuple[str, ...]:
    repairs = [repair.title for repair in all_repairs() if rule.id in repair.rules]
    repair, holds = "; ".join(repairs) or "-", _versions(rule)
    return rule.id, _SEVERITY[rule.severity], holds, rule.title, repair, rule.fix, rule.source


def _versions(rule: Rule) -> str:
    since, until = (f"{bound[0]}.{bound[1]}" for bound in (rule.since, rule.until))
    match rule.since == FIRST, rule.until == LAST:
        case True, True:
            return "all"
        case True, False:
            return f"before {until}"
        case False, True:
            return f"{since} and newer"
    return f"{since} to before {until}"


def main(given: Sequence[str] | None = None) -> int:
    """Prints or writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rules", description="every lint rule as a table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep it between the markers of a document")

    def work(options: argparse.Namespace) -> str:
        text = rules()
        if options.write:
            options.write.write_text(with_block(options.write.read_text(encoding="utf-8"), text, MARKERS), "utf-8")
        return text

    return run(parser, work, given)


if __name__ == "__main__":
    sys.exit(main())
