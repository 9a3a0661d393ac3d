"""``Ema``: an exponential moving average of a network's values (Polyak averaging)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class Ema:
    """Averages every floating-point value of a module's state, running statistics too.

    After update ``t = 1, 2, ...`` the average is ``a <- d_t a + (1 - d_t) x`` with ``d_t = min(decay, t / (t + 9))``:
    the ramp keeps the random start out of short trainings (``num_updates`` of TensorFlow's moving average). The
    module's current values are the start; ``decay`` is in ``[0, 1)``.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._followed = {key: value for key, value in module.state_dict().items() if value.is_floating_point()}
        self.values: dict[str, Tensor] = {key: value.clone() for key, value in self._followed.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Updates the average with the module's current values."""
        self.updates += 1
        weight = 1 - min(self.decay, self.updates / (self.updates + 9))
        for key, average in self.values.items():
            average.lerp_(self._followed[key], weight)

    @torch.no_grad()
    def restore(self, values: dict[str, Tensor], updates: int) -> None:
        """Continues from saved values."""
        self.updates = updates
        for key, average in self.values.items():
            average.copy_(values[key])
