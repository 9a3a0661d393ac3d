"""``Rule``: a lint rule, and ``Finding``: a violation of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgeres.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeres.onnx_graph.graph_index import GraphIndex

Severity = Literal["E", "W", "I"]
"""``E``: the runtime rejects the file or computes wrong results. ``W``: it runs more slowly. ``I``: information."""

Version = tuple[int, int]
"""Major and minor version of a runtime."""

Defect = tuple[str, str]
"""Place in the graph (node or tensor), and the violation."""

FIRST: Version = (0, 0)
LAST: Version = (999, 0)
LENIENT: Version = (10, 13)
"""The parser generation of TensorRT-RTX 1.x, with which every rule was checked on this host (docs/lint.md)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation of a rule in a graph.

    Attributes:
        rule: Identifier of the rule, such as ``Q01``.
        severity: Severity of the violation.
        where: Node or tensor.
        what: The violation, with the value.
        fix: Remedy.
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
        severity: Severity of a violation.
        title: The requirement, in one line.
        fix: Remedy of a violation.
        source: Document or source code behind the rule.
        check: Yields the violations of a graph, given the runtime's version.
        since: First runtime version to which the rule applies.
        until: First runtime version to which it no longer applies.
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
        """Whether the rule applies to a runtime version."""
        return self.since <= version < self.until

    def eased(self, at: Version, severity: Severity) -> tuple[Rule, Rule]:
        """The rule before a version, and the same rule with another severity from that version on."""
        return replace(self, until=at), replace(self, since=at, severity=severity)

    def lifted(self, at: Version) -> Rule:
        """The rule, restricted to versions before ``at``."""
        return replace(self, until=at)

    def findings(self, view: GraphIndex, version: Version) -> Iterator[Finding]:
        """The violations of a graph, as findings."""
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
    """Decorator that makes a ``Rule`` of a check, whose docstring is the title."""
    return lambda check: Rule(id, severity, (check.__doc__ or "").rstrip("."), fix, source, check, since, until)


def tensorrt_version(text: str) -> Version:
    """Parses ``8.5`` or ``10.3``; ``rtx-1.7`` is the TensorRT generation whose parser it contains.

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
