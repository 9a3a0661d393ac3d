"""The training loop, for training on labels and for distillation."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeres.artifacts.results import StageMetrics
from edgeres.data.size import Size
from edgeres.errors import StageError
from edgeres.model.weights import Weights
from edgeres.training.device import autocast_dtype, conditions, lacks_memory, repeatable
from edgeres.training.method import resolution
from edgeres.training.recompute import Recomputed
from edgeres.training.resume import Snapshot, Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from edgeres.model.network import Network
    from edgeres.progress import Progress
    from edgeres.training.feed import Batch, Feed
    from edgeres.training.method import Method

T = TypeVar("T")

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Loss of ``(logits [N,classes], images [N,3,H,W], labels [N])`` as a scalar."""


def distillation(teacher: nn.Module, temperature: float, alpha: float) -> Objective:
    """``alpha T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) CE(student, labels)``, batch mean.

    ``T^2`` keeps the gradients of the soft part on the scale of the hard part (Hinton et al. 2015, arXiv 1503.02531,
    section 2). The teacher is in evaluation mode, on the device of the student; ``alpha`` is in ``[0, 1]``.
    """

    def loss(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            answers = teacher(images).float()
        soft = F.kl_div(
            F.log_softmax(logits.float() / temperature, dim=1),
            F.log_softmax(answers / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(logits.float(), labels)

    return loss


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a training.

    The weights are averaged, or the last ones where nothing was averaged. ``metrics`` has ``train_loss`` (mean over the
    last epoch), ``epochs``, ``steps`` and ``images``. ``conditions`` affect the last bits apart from settings and data;
    there is more than one where a snapshot was continued elsewhere.
    """

    weights: Weights
    metrics: StageMetrics
    conditions: tuple[str, ...]


def fit(
    network: Network,
    objective: Objective,
    feed: Feed,
    method: Method,
    *,
    device: torch.device,
    snapshots: Snapshots,
    progress: Progress,
    label: str,
) -> TrainingResult:
    """Trains a network in place; parameters without gradient are unchanged, as are the statistics of their norms.

    The same arguments give the same bytes on the same machine with the same number of threads, whether or not the run
    was interrupted in between. ``label`` is that of the progress bar.

    Raises:
        StageError: The loss or a weight is not finite.
        StoreError: A snapshot is damaged or cannot be written.
        KeyboardInterrupt: Ctrl-C, after a snapshot of the last complete step.
    """
    trainer = _Trainer(network.to(device), objective, feed, method, device)
    snapshot = snapshots.latest()
    if snapshot is not None:
        trainer.restore(snapshot)
    images = trainer.total * feed.batch
    with repeatable(device), held_interrupt() as interrupted, progress.task(label, images) as advance:
        advance(trainer.step * feed.batch)
        for batch in feed.batches(trainer.step, trainer.total, trainer.size):
            trainer.take(batch, label)
            advance(feed.batch)
            if interrupted():
                snapshots.save(trainer.snapshot())
                raise KeyboardInterrupt
            if trainer.step < trainer.total and snapshots.due(epoch_ended=trainer.step % feed.steps == 0):
                snapshots.save(trainer.snapshot())
    return trainer.outcome(label)


class _Trainer:
    """State of a training between two steps; ``snapshot`` and ``restore`` cover all of it."""

    def __init__(
        self, network: Network, objective: Objective, feed: Feed, method: Method, device: torch.device
    ) -> None:
        self.step = 0
        self.total = method.steps(feed.steps, feed.batch)
        self._network = network
        self._objective = objective
        self._feed = feed
        self._method = method
        self._device = device
        self._dtype = autocast_dtype(method.precision, device)
        recompute = method.checkpointing
        if recompute == "auto":
            recompute = lacks_memory(network.graph, feed.preprocess.crop, feed.batch, self._dtype, device)
        self._forward: Callable[[Tensor], Tensor] = Recomputed(network) if recompute else network
        self._optimizer = _optimizer(network, method)
        self._ema = Ema(network, method.ema) if method.ema else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self._loss_sum = 0.0
        self._conditions: tuple[str, ...] = (conditions(device, self._dtype),)
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()  # frozen norms keep their statistics

    def size(self, epoch: int) -> Size:
        """Size of the training images in an epoch."""
        epochs = -(-self.total // self._feed.steps)
        sides = (resolution(full, self._method.progressive, epoch, epochs) for full in self._feed.preprocess.crop)
        return Size(*sides)

    def take(self, batch: Batch, label: str) -> None:
        """One step; ``StageError`` where the loss is not finite."""
        if self.step % self._feed.steps == 0:
            self._loss_sum = 0.0
        rate = self._method.lr * self._method.schedule.factor(self.step, self.total)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        pixels, labels = (tensor.to(self._device, non_blocking=True) for tensor in batch)
        images = self._feed.as_input(pixels)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            loss = self._objective(self._forward(images), images, labels)
        torch.autograd.backward(self._scaler.scale(loss))
        if self._method.clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._network.parameters(), self._method.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._ema is not None:
            self._ema.update()
        self.step += 1
        value = loss.item()
        if not isfinite(value):
            raise StageError(
                f"{label}: the loss became {value} at step {self.step} of {self.total}",
                f"lower lr (it is {self._method.lr:g}) or train with precision float32",
            )
        self._loss_sum += value

    def outcome(self, label: str) -> TrainingResult:
        """The result of the steps so far; ``StageError`` where a weight is not finite."""
        last = self.step % self._feed.steps or min(self.step, self._feed.steps)
        values = self._ema.values if self._ema is not None else self._network.state_dict()
        weights = Weights({key: values[key].detach().cpu().numpy() for key in self._network.graph.parameters})
        if lost := [key for key, value in weights.items() if not np.isfinite(value).all()]:
            raise StageError(
                f"{label}: {lost[0]} holds NaN or infinity after {self.step} steps",
                f"lower lr (it is {self._method.lr:g}) or train with precision float32",
            )
        images = self.step * self._feed.batch
        metrics = StageMetrics(
            train_loss=self._loss_sum / last, epochs=self.step / self._feed.steps, steps=self.step, images=images
        )
        return TrainingResult(weights, metrics, self._conditions)

    def snapshot(self) -> Snapshot:
        """The complete state of the training."""
        tensors = {f"network.{key}": value for key, value in self._network.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if value is not None}
        figures = {"loss_sum": self._loss_sum}
        if self._ema is not None:
            tensors |= {f"ema.{key}": value for key, value in self._ema.values.items()}
            figures["ema_updates"] = self._ema.updates
        if self._scaler.is_enabled():
            figures |= {f"scaler.{key}": value for key, value in self._scaler.state_dict().items()}
        return Snapshot(self.step, tensors, figures, self._conditions)

    def restore(self, snapshot: Snapshot) -> None:
        """Continues from a snapshot."""
        self.step = snapshot.step
        self._loss_sum = snapshot.figures["loss_sum"]
        if snapshot.conditions[-1:] != self._conditions:
            self._conditions = (*snapshot.conditions, *self._conditions)
        else:
            self._conditions = snapshot.conditions
        self._network.load_state_dict(_below("network.", snapshot.tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", snapshot.tensors).items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        self._optimizer.load_state_dict({"state": state, "param_groups": self._optimizer.state_dict()["param_groups"]})
        if self._ema is not None:
            self._ema.restore(_below("ema.", snapshot.tensors), int(snapshot.figures["ema_updates"]))
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(_below("scaler.", snapshot.figures))


def _optimizer(network: nn.Module, method: Method) -> torch.optim.Optimizer:
    """The optimizer, with norms and biases in a group of their own."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if method.decay_all or parameter.ndim > 1]
    vectors = [parameter for parameter in trained if not (method.decay_all or parameter.ndim > 1)]
    groups = [{"params": matrices, "weight_decay": method.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if method.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=method.lr, eps=method.eps)
    return torch.optim.SGD(groups, lr=method.lr, momentum=0.9, nesterov=method.nesterov)


def _below(prefix: str, values: Mapping[str, T]) -> dict[str, T]:
    """Entries whose name starts with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


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


@contextmanager
def held_interrupt() -> Iterator[Callable[[], bool]]:
    """Delays the first Ctrl-C; the yielded function returns whether one came. A second one interrupts at once.

    Signals reach the main thread only; on other threads nothing is delayed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def hold(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, hold)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, before)
