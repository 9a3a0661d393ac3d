"""``Method``: settings of the training loop, and the two classical recipes."""

from __future__ import annotations

from math import cos, pi
from typing import Annotated, Literal

from pydantic import Field

from edgeres.settings import settings
from edgeres.training.feed import Augment

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


Precision = Literal["auto", "float32", "bf16", "fp16"]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


@settings
class Method:
    """Settings of the training loop.

    Attributes:
        optimizer: ``sgd`` with momentum 0.9, or ``adamw`` (Loshchilov 2019, arXiv 1711.05101).
        nesterov: Nesterov's momentum for ``sgd``.
        epochs: Passes over the training split.
        max_images: Most images in all epochs; None for no limit.
        batch: Images per step.
        lr: Peak learning rate.
        weight_decay: L2 penalty of ``sgd``, decoupled decay of ``adamw``.
        decay_all: Whether norms and biases decay too, as in 2015; otherwise only convolutions and the classifier do
            (He et al. 2018, arXiv 1812.01187).
        eps: ``adamw``'s epsilon, added to the root of the squared gradients' mean.
        clip: Largest gradient norm over all parameters (Pascanu 2013, arXiv 1211.5063); None for no limit.
        schedule: Learning rate over time.
        label_smoothing: Mass given to the other classes (Szegedy et al. 2015, arXiv 1512.00567).
        ema: Decay per step of the averaged weights, which are the result; 0 keeps the last ones.
        progressive: Share of the resolution in the first epoch; 1 trains at full size throughout.
        augment: Augmentation.
        precision: Arithmetic of the forward pass; ``auto`` is the fastest of the device.
        checkpointing: Recompute activations block by block in the backward pass instead of keeping them (Chen et al.
            2016, arXiv 1604.06174); ``auto`` where the device's memory would not hold them.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    nesterov: bool = True
    epochs: Count
    max_images: Count | None = None
    batch: Count
    lr: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    decay_all: bool = False
    eps: Rate = 1e-8
    clip: Rate | None = None
    schedule: Schedule = Schedule()
    label_smoothing: Share = 0.0
    ema: Share = 0.0
    progressive: Annotated[float, Field(gt=0, le=1)] = 1.0
    augment: Augment = Augment()
    precision: Precision = "auto"
    checkpointing: bool | Literal["auto"] = "auto"

    def steps(self, per_epoch: int, batch: int) -> int:
        """Steps in all, for an epoch of so many steps of ``batch`` images."""
        planned = self.epochs * per_epoch
        return planned if self.max_images is None else max(1, min(planned, self.max_images // batch))


HE = Method(
    nesterov=False,
    epochs=90,
    batch=256,
    lr=0.1,
    weight_decay=1e-4,
    decay_all=True,
    schedule=Schedule(kind="step", warmup=0.0),
    augment=Augment(crop="random"),
)
"""He et al. 2015, section 3.4: random crop and mirror, plain momentum, the rate divided by ten twice."""

MODERN = Method(
    epochs=30,
    batch=256,
    lr=0.2,
    weight_decay=5e-5,
    label_smoothing=0.1,
    ema=0.999,
    progressive=0.6,
    augment=Augment(brightness=0.2, contrast=0.2, saturation=0.2),
)
"""One-cycle rate, label smoothing, averaged weights, growing images, no decay on norms and biases."""
