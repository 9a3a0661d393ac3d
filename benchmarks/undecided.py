"""Laws of the runtimes that no look at a graph decides, and why; docs/lint.md lists them beside the rules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Undecided:
    """A law without a rule.

    Attributes:
        id: Its name beside the rules'.
        law: What holds.
        why: Why a graph does not show whether it is kept.
    """

    id: str
    law: str
    why: str


UNDECIDED: tuple[Undecided, ...] = (
    Undecided(
        "Q18",
        "TensorRT clamps to [-128, 127] and rounds half to even",
        "It is how every engine computes, and no graph can break it. Where a DLA rounds differently, D05 says so.",
    ),
    Undecided(
        "Q21",
        "Refitting an engine with unequal new scales fails; zero-points cannot be refitted",
        "Only the call that refits an engine knows the new scales.",
    ),
    Undecided(
        "P14",
        "First convolution and classifier are the first to leave in float when accuracy is short",
        "A graph does not tell its accuracy; 'edgeres gate' does. W07 speaks about the classifier's speed.",
    ),
    Undecided(
        "P15",
        "About 500 images suffice for calibration",
        "A graph does not say how many images its scales come from; edgeres writes it into calibration.json.",
    ),
)
