"""Budgets: documented, target and user limits, and the budget lines of a run.

A limit is the user's, else the target's, else the documented one, which holds for 224x224 pixels and is scaled down for
smaller images: MACs with the area, a latency by the target's roofline, of which the call, launches and reading the
weights are fixed. A documented MAC count is rounded (ResNet-18 has 1.814 G, written 1.8 G), so every count that rounds
to it meets it; all other limits are exact. A latency is host latency: from launch to the end of the last kernel, copies
of image and logits left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Literal

from edgeres.artifacts.budget_check import BudgetCheck, Predicted, PredictedStatus, Status
from edgeres.data.size import Size
from edgeres.errors import TargetError, UsageError
from edgeres.latency.roofline import float_precisions, roofline_of
from edgeres.latency.workload import of_target
from edgeres.model.cost import macs as count_macs
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS, preset
from edgeres.settings import parse, settings
from edgeres.targets.runtime import yaml_files
from edgeres.targets.target import Budget, Target

if TYPE_CHECKING:
    from edgeres.artifacts.results import Latency

_LATENCIES = ("latency_p50_ms", "latency_p90_ms", "latency_p99_ms")

Overrides = Mapping[str, float | None]
"""The user's limits by field of ``Budget``; None removes a limit."""

Limits = Mapping[str, "Limit"]
"""Effective limits by field of ``Budget``."""


@settings
class Requirement:
    """Documented limits of some presets: MACs in 1e9 as written, and ms for one image by the target's latency class."""

    names: tuple[str, ...]
    macs_g: str
    latency_ms: dict[Literal["gpu", "mobile"], float]


@settings
class Requirements:
    """Every documented limit, the square image in pixels for which it holds, and its document."""

    size: int
    source: str
    networks: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """Upper limit of the field ``name`` of ``Budget``, in its unit; a value below ``limit + rounding`` rounds to it.

    ``derivation`` is that of a scaled documented limit; empty otherwise.
    """

    name: str
    limit: float
    source: str
    rounding: float = 0.0
    derivation: str = ""

    def met(self, value: float) -> bool:
        """Whether a value keeps the limit."""
        return value <= self.limit or value < self.limit + self.rounding

    def line(self, value: float | None, how: str, predicted: Predicted | None = None) -> BudgetCheck:
        """The budget line of a value; without a value it is ``unmeasured``, whatever is predicted.

        The prediction ``passes`` if the upper end of its band meets the limit, and ``fails`` if its lower does not.
        """
        status: Status = "unmeasured" if value is None else "passed" if self.met(value) else "failed"
        expected: PredictedStatus = ""
        if predicted:
            expected = "passes" if self.met(predicted.high) else "open" if self.met(predicted.low) else "fails"
        return BudgetCheck(
            name=self.name,
            value=value,
            limit=self.limit,
            status=status,
            how=how,
            source=self.source,
            derivation=self.derivation,
            figure="host_latency" if self.name in _LATENCIES else None,
            predicted=predicted,
            predicted_status=expected,
        )


@cache
def requirements() -> Requirements:
    """The documented limits, read from package data."""
    return parse(Requirements, yaml_files("budgets")["resnet"], "resnet.yaml", TargetError)


def documented(network: str, target: Target, image: Size) -> dict[str, Limit]:
    """Documented limits of a preset for images of a size in pixels; empty where nothing is documented."""
    known = requirements()
    row = next((row for row in known.networks if network in row.names), None)
    if row is None:
        return {}
    latency_ms, written = row.latency_ms[target.latency_class], Decimal(row.macs_g)
    half_digit = float(Decimal(5).scaleb(int(written.as_tuple().exponent) - 1))
    macs = Limit("macs_g", float(written), known.source, half_digit)
    latency = Limit("latency_p50_ms", latency_ms, known.source)
    if image.area < known.size**2:
        area = image.area / known.size**2
        derivation = f"{macs.limit:g} G at {known.size} px, scaled by the area to {image.text} px"
        macs = replace(macs, limit=macs.limit * area, rounding=macs.rounding * area, derivation=derivation)
        latency = _smaller_latency(latency, network, target, Size.square(known.size), image)
    return {limit.name: limit for limit in (macs, latency)}


def _smaller_latency(limit: Limit, network: str, target: Target, size: Size, image: Size) -> Limit:
    """``L (f + (1 - f) m)``, ``m`` the share of the MACs, ``f`` the fixed share of the latency by a roofline.

    Where the device's peaks are unknown, the roofline is scaled to the documented latency.
    """
    spec, integer = preset(network), target.scheme is not None
    works = of_target(graph(spec), size, target, integer=integer)
    roofline = roofline_of(target, "int8" if integer else float_precisions(target)[0])
    if roofline.missing(works):
        roofline = roofline.calibrated(works, limit.limit)
    fixed = min(1.0, roofline.fixed_ms(works) / roofline.total_ms(works))
    share = fixed + (1 - fixed) * count_macs(graph(spec), *image) / count_macs(graph(spec), *size)
    stays = f"{100 * fixed:.0f} % stays (call, launches, weights), the rest scales by MACs"
    return replace(limit, limit=limit.limit * share, derivation=f"{limit.limit:g} ms at {size.text} px: {stays}")


def limits(network: str, image: Size, target: Target, overrides: Overrides) -> dict[str, Limit]:
    """The effective limits for images of a size in pixels, in the order of ``Budget``'s fields.

    A network that is no preset has no documented limits.

    Raises:
        UsageError: An override names no field of ``Budget`` or is not a number.
    """
    names = [field.name for field in fields(Budget)]
    for name in overrides:
        if name not in names:
            known = ", ".join(names)
            raise UsageError(f"no budget has the name {name!r}", f"known, each with its unit at its end: {known}")
    parse(Budget, dict(overrides), "budget", UsageError)
    chosen = documented(network, target, image)
    for name in names:
        own = getattr(target.budget, name)
        if own is not None:
            chosen[name] = Limit(name, own, f"target {target.name}")
        if name in overrides:
            chosen.pop(name, None)
            asked = overrides[name]
            if asked is not None:
                chosen[name] = Limit(name, asked, "asked for")
    return {name: chosen[name] for name in names if name in chosen}


def static_lines(
    known: Limits,
    *,
    network: str,
    image: Size,
    macs: int,
    parameters: int | None,
    size_bytes: int,
    peak_activation_bytes: int | None,
) -> tuple[BudgetCheck, ...]:
    """Budget lines of the graph alone: MACs, parameters, file size and peak activation memory; None: not computed."""
    lines: list[BudgetCheck] = []
    if limit := known.get("macs_g"):
        value = macs / 1e9
        how = f"closed form, {macs:,} MACs"
        if limit.limit < value and limit.met(value):
            how += "; within the last written digit of the documented limit"
        elif not limit.met(value):
            how += f"; too many: {_cure(limit, macs, network, image)}"
        lines.append(limit.line(value, how))
    how = "not counted" if parameters is None else f"closed form, {parameters:,} parameters"
    lines += budget_lines(known, "params_m", None if parameters is None else parameters / 1e6, how)
    lines += budget_lines(known, "size_mib", size_bytes / 2**20, f"file size, {size_bytes:,} bytes")
    peak = peak_activation_bytes
    how = "not counted" if peak is None else f"walk over the graph, {peak:,} bytes, workspaces on top"
    lines += budget_lines(known, "peak_activation_mib", None if peak is None else peak / 2**20, how)
    return tuple(lines)


def budget_lines(known: Limits, name: str, value: float | None, how: str) -> tuple[BudgetCheck, ...]:
    """The line of one field of ``Budget``; none where it has no limit."""
    return (known[name].line(value, how),) if name in known else ()


def latency_lines(
    known: Limits, timed: Latency | None, how: str, predicted: Predicted | None = None
) -> tuple[BudgetCheck, ...]:
    """Latency of one image: the median, and the tail by its upper bound of 99 % confidence.

    Without ``timed``, ``how`` says why there is no measurement and ``predicted`` is the median in ms. The tail is never
    predicted, and is unmeasured where there are too few calls for its bound.
    """
    if timed is None:
        expected = {"latency_p50_ms": predicted}
        return tuple(known[name].line(None, how, expected.get(name)) for name in _LATENCIES if name in known)
    lines = list(budget_lines(known, "latency_p50_ms", timed.p50_ms, how))
    tails = (("latency_p90_ms", timed.p90_high_ms, 44), ("latency_p99_ms", timed.p99_high_ms, 459))
    for name, value, calls in tails:
        tail = "99 % upper bound" if value is not None else f"too few for a 99 % upper bound, which takes {calls}"
        lines += budget_lines(known, name, value, f"{how}; {tail}")
    return tuple(lines)


def _cure(limit: Limit, macs: int, network: str, image: Size) -> str:
    """Remedy for too many MACs: a pruning ratio, or the variant with its strides in the 1x1."""
    kept = int(limit.limit * 1e9 / macs * 1000) / 1000
    hint = f"prune to macs: {kept:.3f} of these"
    variant = f"{network}_v1"
    if variant not in PRESETS:
        return hint
    others = count_macs(graph(PRESETS[variant]), *image) / 1e9
    return f"{hint}, or take {variant} ({others:.4g} G)" if limit.met(others) else hint
