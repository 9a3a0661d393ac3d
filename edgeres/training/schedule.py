"""Learning rate and resolution as closed-form functions of training progress."""

from __future__ import annotations

from math import cos, pi
from typing import Annotated, Literal

from pydantic import Field

from edgeres.settings import settings

ScheduleKind = Literal["step", "cosine", "onecycle"]

MILESTONES = (0.5, 0.75)
"""Progress at which ``step`` divides by ten: 32k and 48k of 64k iterations in He et al. 2015, section 4.2."""

START, END = 1 / 25, 1 / 25e4
"""First and last factor of ``onecycle``, the defaults of Smith and Topin 2017 as torch implements them."""


@settings
class Schedule:
    """The learning rate of every step, as a factor of the peak.

    Attributes:
        kind: ``step`` divides by 10 at 1/2 and 3/4 (He et al. 2015, arXiv 1512.03385); ``cosine`` decays to zero after
            a linear warm-up (Loshchilov 2017, arXiv 1608.03983; Goyal 2017, arXiv 1706.02677); ``onecycle`` rises from
            1/25 and falls to 1/250,000, both along a cosine (Smith and Topin 2017, arXiv 1708.07120).
        warmup: Share of all steps spent rising; ``step`` has none.
    """

    kind: ScheduleKind = "onecycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.3

    def factor(self, step: int, total: int) -> float:
        """The factor of step ``0 <= step < total``."""
        if self.kind == "step":
            return float(0.1 ** sum(step >= milestone * total for milestone in MILESTONES))
        if self.kind == "cosine":
            rising = round(self.warmup * total)
            if step < rising:
                return (step + 1) / rising
            return (1 + cos(pi * (step - rising) / (total - rising))) / 2
        peak, last = self.warmup * total - 1, total - 1
        if step <= peak:
            return _along_cosine(START, 1.0, step / peak if peak else 1.0)
        start = max(peak, 0.0)
        return _along_cosine(1.0, END, (step - start) / (last - start) if last > start else 1.0)


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + cos(pi * share))


def resolution(full: int, start: float, epoch: int, epochs: int) -> int:
    """Side of the training images in one epoch, in pixels: it grows linearly and is full for the last third.

    Progressive resizing (Howard 2018 for DAWNBench; Tan and Le 2021, arXiv 2104.00298): early epochs on small images
    cost a fraction. Sides are multiples of 32 from 128 pixels on and of 4 below, so kernels keep whole strides.
    ``start`` is the share of ``full`` in the first epoch; 1 turns it off. Epochs count from 0.
    """
    share = min(1.0, epoch / max(1.0, epochs * 2 / 3))
    grid = 32 if full >= 128 else 4
    side = round(full * (start + (1 - start) * share) / grid) * grid
    return full if share == 1.0 else min(full, max(grid, side))
