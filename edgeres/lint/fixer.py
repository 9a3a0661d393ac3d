"""Repair of a graph rule by rule, each repair checked numerically before the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import StageError
from edgeres.lint.fixes import nodes, placement, precision, weights
from edgeres.lint.fixes.proof import prove
from edgeres.lint.linter import lint
from edgeres.onnx_graph.execute import probe, relative_delta, runner
from edgeres.onnx_graph.graph_index import prune
from edgeres.onnx_graph.read import infer, name_nodes, sort_nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.lint.fixes.fix import Repair
    from edgeres.lint.fixes.proof import Proof
    from edgeres.lint.rule import Finding
    from edgeres.targets.target import Target

REPAIRS: tuple[Repair, ...] = (
    *nodes.SPELLING,
    *weights.WEIGHTS,
    *nodes.CODES,
    *placement.REPAIRS,
    *weights.STORAGE,
    *precision.REPAIRS,
    *nodes.VERSIONS,
)
"""Every repair, in an order in which earlier ones enable later ones."""

_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Repaired:
    """One applied repair.

    Attributes:
        rules: Rules whose findings it removes.
        title: Description of the repair.
        places: Number of changed places.
        proof: Numerical comparison of the graphs before and after.
    """

    rules: tuple[str, ...]
    title: str
    places: int
    proof: Proof


@dataclass(frozen=True, slots=True)
class Fixed:
    """A repaired graph.

    Attributes:
        model: The graph.
        repairs: Applied repairs, in order.
        left: Remaining findings.
        relative: ``max|delta logit| / max|logit|`` against the given graph, on random images.
        agreement: Share of those images with equal predictions.
    """

    model: ModelProto
    repairs: tuple[Repaired, ...]
    left: tuple[Finding, ...]
    relative: float
    agreement: float


def fix(model: ModelProto, target: Target, *, only: frozenset[str] | None = None) -> Fixed:
    """Applies the mechanical repairs of a target's rules.

    Args:
        model: A checked graph, as ``read_model`` returns it; unchanged.
        target: Target whose rules apply.
        only: Rules to repair; None for all.

    Raises:
        StageError: A repair changes the graph's function, or the runtime cannot run the graph.
    """
    images = _images(model)
    current, done = model, list[Repaired]()
    for repair in REPAIRS:
        wanted = {finding.rule for finding in lint(current, target)} & set(repair.rules)
        if only is not None:
            wanted &= only
        if not wanted:
            continue
        changed = type(model)()
        changed.CopyFrom(current)
        places = repair.apply(changed, target)
        if not places:
            continue
        prune(changed)
        sort_nodes(changed)
        name_nodes(changed)
        changed.graph.ClearField("value_info")
        changed = infer(changed)
        rules = tuple(sorted(wanted))
        done.append(Repaired(rules, repair.title, places, _proven(current, changed, images, repair, rules)))
        current = changed
    return _finished(model, current, target, tuple(done), images)


def _images(model: ModelProto) -> NDArray[np.float32]:
    """Random images of the graph's own size, in its own batch where it has one.

    Raises:
        StageError: Height or width is symbolic.
    """
    batch, *size = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    if any(side <= 0 for side in size):
        raise StageError("the size of the image is open", "export the graph with a fixed height and width")
    return probe(model, batch or _IMAGES, seed=0)


def _proven(
    before: ModelProto, after: ModelProto, images: NDArray[np.float32], repair: Repair, rules: tuple[str, ...]
) -> Proof:
    try:
        proof = prove(before, after, images, repair.rounding)
    except Exception as failure:  # ONNX Runtime's exceptions have no common base class
        words = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise StageError(f"{', '.join(rules)} ({repair.title}) cannot be proven: {words}", _LEAVE_OUT) from failure
    if not proof.holds:
        raise StageError(
            f"{', '.join(rules)} ({repair.title}): {proof.where!r} differs by {proof.steps:.3g} quantization steps",
            _LEAVE_OUT,
        )
    return proof


_LEAVE_OUT = "nothing was written; name the rules to repair with --only"


def _finished(
    model: ModelProto,
    fixed: ModelProto,
    target: Target,
    done: tuple[Repaired, ...],
    images: NDArray[np.float32],
) -> Fixed:
    left = lint(fixed, target)
    if not done:
        return Fixed(fixed, done, left, 0.0, 1.0)
    was, now = runner(model, optimise=False)(images), runner(fixed, optimise=False)(images)
    agreement = float(np.mean(was.argmax(1) == now.argmax(1)))
    return Fixed(fixed, done, left, relative_delta(was, now), agreement)
