"""What a lint rule is, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgeres.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeres.onnx_graph.graph_index import GraphIndex

Severity = Literal["E", "W", "I"]
"""``E``: the runtime refuses the file or computes something else. ``W``: runs, but slower. ``I``: worth knowing."""

Version = tuple[int, int]
"""Major and minor version of a runtime."""

Defect = tuple[str, str]
"""Where in the graph (node or tensor), and what is wrong there."""

FIRST: Version = (0, 0)
LAST: Version = (999, 0)
LENIENT: Version = (10, 13)
"""The parser generation of TensorRT-RTX 1.x, which was asked here about every rule (docs/lint.md)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect of one graph.

    Attributes:
        rule: Identifier of the rule, such as ``Q01``.
        severity: How bad it is.
        where: Node or tensor.
        what: What is wrong, with the value.
        fix: What to do about it.
        source: Document or source code behind the rule.
    """

    rule: str
    severity: Severity
    where: str
    what: str
    fix: str
    source: str

    def __str__(self) -> str:
        return f"{self.rule} {self.severity} {self.where}: {self.what}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A predicate on a graph.

    Attributes:
        id: Short stable name.
        severity: How bad a defect is.
        title: The law, in one line.
        fix: What to do about a defect.
        source: Document or source code behind the rule.
        check: Yields the defects of a graph, given the runtime's version.
        since: First runtime version the rule holds for.
        until: First runtime version it no longer holds for.
    """

    id: str
    severity: Severity
    title: str
    fix: str
    source: str
    check: Callable[[GraphIndex, Version], Iterator[Defect]]
    since: Version = FIRST
    until: Version = LAST

    def applies(self, version: Version) -> bool:
        """Whether the rule holds for a runtime version."""
        return self.since <= version < self.until

    def eased(self, at: Version, severity: Severity) -> tuple[Rule, Rule]:
        """The rule before a version, and the same rule with another severity from that version on."""
        return replace(self, until=at), replace(self, since=at, severity=severity)

    def lifted(self, at: Version) -> Rule:
        """The rule, for versions before ``at`` alone."""
        return replace(self, until=at)

    def findings(self, view: GraphIndex, version: Version) -> Iterator[Finding]:
        """The defects of a graph, as findings."""
        for where, what in self.check(view, version):
            yield Finding(self.id, self.severity, where, what, self.fix, self.source)


def rule(
    id: str,  # noqa: A002  # the name rules go by everywhere
    severity: Severity,
    fix: str,
    source: str,
    *,
    since: Version = FIRST,
    until: Version = LAST,
) -> Callable[[Callable[[GraphIndex, Version], Iterator[Defect]]], Rule]:
    """Makes a ``Rule`` of the check it stands above, whose docstring is the title; nothing is registered."""
    return lambda check: Rule(id, severity, (check.__doc__ or "").rstrip("."), fix, source, check, since, until)


def tensorrt_version(text: str) -> Version:
    """Reads ``8.5`` or ``10.3``; ``rtx-1.7`` counts as the TensorRT generation whose parser it ships.

    Raises:
        TargetError: Neither form.
    """
    if text.startswith("rtx-"):
        return LENIENT
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0] or "0"
    if not (major.isdigit() and minor.isdigit()):
        raise TargetError(f"runtime.tensorrt: {text!r} is no version", "write it as '10.3' or 'rtx-1.7'")
    return int(major), int(minor)
