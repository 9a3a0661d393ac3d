"""``Method``: settings of the training loop, and the two classical recipes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeres.settings import settings
from edgeres.training.augment import Augment
from edgeres.training.schedule import Schedule

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
