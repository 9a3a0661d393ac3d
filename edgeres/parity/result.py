"""``Parity``: what several runtimes make of one graph, as a report and a machine read it."""

from __future__ import annotations

from typing import Literal

from edgeres.settings import settings

SCHEMA = "edgeres.parity/1"


@settings
class Depth:
    """One runtime at one quantized tensor, or at the logits.

    Attributes:
        tensor: Its name.
        nodes: Nodes between it and the quantized tensors before it: what may be at fault.
        numbers: How many numbers were compared.
        sqnr_db: Signal to noise against the reference, both running freely from the image on; None where they are
            equal.
        differing: Numbers that are not the reference's.
        alone: Numbers that are not what the reference makes of this runtime's own codes before them: what this layer
            adds. At the logits: those beyond what float arithmetic explains.
        steps: The most quantization steps such a number is off by; 0 at the logits.
        farthest: How far, in steps, the exact value lies from the boundary that such a number is beyond; at the logits
            the largest difference as a share of the largest logit.
        unexplained: Numbers farther beyond than rounding in float32 can carry them.
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
    """What one runtime answers.

    Attributes:
        name: Identifier.
        title: For people.
        top1: Percent.
        biases: How it takes biases where integer layers have them, by whichever reference its codes are nearer to; None
            where it shows no tensors, or is the reference.
        depths: In execution order; empty where it shows no tensors, or is the reference.
        note: What a reader should know about how its tensors were seen.
    """

    name: str
    title: str
    top1: float
    biases: Literal["float", "int32"] | None = None
    depths: tuple[Depth, ...] = ()
    note: str = ""

    @property
    def diverges(self) -> Depth | None:
        """The first layer that computes something else than the graph says; None where there is none."""
        return next((depth for depth in self.depths if depth.unexplained), None)

    @property
    def alone(self) -> int:
        """Codes that differ from what the reference makes of the same codes before them."""
        return sum(depth.alone for depth in self.depths[:-1])

    @property
    def codes(self) -> int:
        """Codes that were compared."""
        return sum(depth.numbers for depth in self.depths[:-1])


@settings
class Pair:
    """Two runtimes.

    Attributes:
        agreement: Images on which both answer the same class, in percent.
        differing: The others.
        margin: Of the images answered differently, the clearest one's margin between the reference's two best logits.
        rank: Images whose margin is no larger than that, in percent of all: small where what differs was undecided.
            None where no answer differs, like ``margin``.
    """

    first: str
    second: str
    agreement: float
    differing: int
    margin: float | None = None
    rank: float | None = None


@settings
class Parity:
    """The whole comparison.

    Attributes:
        model: Name of the network.
        target: Name of the target whose graph it is.
        images: How many images were answered.
        shown: How many of them were looked at layer by layer.
        wanted: Agreement of every pair that passes, in percent.
        runtimes: Who answered.
        pairs: Every pair of them.
        absent: Who did not answer, and why, by name.
        float_nodes: Nodes of the graph that the reference computes in float64, as they have no integers.
        schema: Of this document.
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
    schema: str = SCHEMA

    @property
    def worst(self) -> Pair:
        """The pair that agrees least."""
        return min(self.pairs, key=lambda pair: pair.agreement)

    @property
    def passed(self) -> bool:
        """Whether every pair agrees as often as wanted."""
        return self.worst.agreement >= self.wanted

    @property
    def spread_pp(self) -> float:
        """From the least to the most accurate runtime, in percentage points."""
        accuracies = [row.top1 for row in self.runtimes]
        return max(accuracies) - min(accuracies)

    @property
    def diverging(self) -> tuple[RuntimeRow, ...]:
        """Runtimes with a layer that computes something else than the graph says."""
        return tuple(row for row in self.runtimes if row.diverges)

    def titled(self, name: str) -> str:
        """The title of a runtime."""
        return next(row.title for row in self.runtimes if row.name == name)
