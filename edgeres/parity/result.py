"""``Parity``: result of a parity study."""

from __future__ import annotations

from typing import Literal

from edgeres.settings import settings


@settings
class Depth:
    """Comparison of one runtime with the reference at one quantized tensor, or at the logits.

    Attributes:
        nodes: Nodes between it and the quantized tensors before it, one of which causes a difference.
        numbers: Number of compared values.
        sqnr_db: Signal to noise ratio against the reference in dB, both run from the image on; None where they are
            equal.
        differing: Number of values that differ from the reference's.
        alone: Number of values that differ from the reference's, computed from the runtime's own codes before them: the
            error of this layer alone. At the logits: those beyond float rounding.
        steps: Largest such difference in quantization steps; 0 at the logits.
        farthest: Largest distance, in steps, of such an exact value from the rounding boundary; at the logits the
            largest difference as a share of the largest logit.
        unexplained: Number of values farther from the boundary than float32 rounding explains.
    """

    tensor: str
    nodes: tuple[str, ...]
    numbers: int
    sqnr_db: float | None
    differing: int
    alone: int
    steps: int
    farthest: float
    unexplained: int


@settings
class RuntimeRow:
    """Results of one runtime: its identifier, display name and accuracy in percent, and a note on its tensors.

    Attributes:
        biases: Treatment of biases in integer layers, by the reference that its codes are nearer to; None where it
            exposes no tensors, or is the reference.
        depths: Comparisons in execution order; empty where ``biases`` is None.
    """

    name: str
    title: str
    top1: float
    biases: Literal["float", "int32"] | None = None
    depths: tuple[Depth, ...] = ()
    note: str = ""

    @property
    def diverges(self) -> Depth | None:
        """The first layer with an unexplained difference; None where there is none."""
        return next((depth for depth in self.depths if depth.unexplained), None)

    @property
    def alone(self) -> int:
        """Number of codes that differ from the reference's, computed from the runtime's codes before them."""
        return sum(depth.alone for depth in self.depths[:-1])

    @property
    def codes(self) -> int:
        """Number of compared codes."""
        return sum(depth.numbers for depth in self.depths[:-1])


@settings
class Pair:
    """Agreement of two runtimes.

    Attributes:
        agreement: Share of images with equal predictions, in percent.
        differing: Number of images with different predictions.
        margin: Largest margin between the reference's two best logits among the images that differ; None where none
            does.
        rank: Share of images with a margin no larger than that, in percent: small where the differing images were close
            decisions; None where none differs.
    """

    first: str
    second: str
    agreement: float
    differing: int
    margin: float | None = None
    rank: float | None = None


@settings
class Parity:
    """Result of a parity study on ``images`` images, of which ``shown`` are compared layer by layer.

    Attributes:
        target: Name of the target whose graph it is.
        wanted: Required agreement of every pair, in percent.
        absent: Why a runtime is missing, by name.
        float_nodes: Nodes that the reference computes in float64, since they are not quantized.
        schema: Version of this layout.
    """

    model: str
    target: str
    images: int
    shown: int
    wanted: float
    runtimes: tuple[RuntimeRow, ...]
    pairs: tuple[Pair, ...]
    absent: dict[str, str]
    float_nodes: tuple[str, ...]
    schema: str = "edgeres.parity/1"

    @property
    def worst(self) -> Pair:
        """The pair of least agreement."""
        return min(self.pairs, key=lambda pair: pair.agreement)

    @property
    def passed(self) -> bool:
        """Whether every pair reaches the required agreement."""
        return self.worst.agreement >= self.wanted

    @property
    def spread_pp(self) -> float:
        """Difference between the least and the most accurate runtime, in percentage points."""
        accuracies = [row.top1 for row in self.runtimes]
        return max(accuracies) - min(accuracies)

    @property
    def diverging(self) -> tuple[RuntimeRow, ...]:
        """Runtimes with a layer that has an unexplained difference."""
        return tuple(row for row in self.runtimes if row.diverges)

    def titled(self, name: str) -> str:
        """The title of a runtime."""
        return next(row.title for row in self.runtimes if row.name == name)
