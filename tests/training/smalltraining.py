"""A network and images small enough to train within a test."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.progress import Silent
from edgeres.training.feed import Augment, Feed
from edgeres.training.loop import TrainingResult, fit
from edgeres.training.method import Method, Schedule
from edgeres.training.resume import Snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgeres.training.loop import Objective

SIDE = 12


def random_split(count: int = 24, classes: int = 3, seed: int = 0) -> Split:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return Split(
        "train", tuple(ArrayImage(array, f"image {i}") for i, array in enumerate(pixels)), (*range(classes),) * 8
    )


def thin_spec(**changes: object) -> ResNetSpec:
    settings: dict[str, object] = {
        "kind": "basic",
        "stem": Stem(width=8, kernel=3, stride=1, pool=False),
        "stages": ((Block(inner=(8,), out=8),), (Block(inner=(12,), out=16, stride=2, projected=True),)),
        "classes": 3,
    }
    return ResNetSpec(**(settings | changes))


def cross_entropy(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels)


class Watched:
    """Progress that calls back with the images seen so far."""

    def __init__(self, watch: Callable[[int], None]) -> None:
        self._watch = watch

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        seen = 0

        def advance(units: int) -> None:
            nonlocal seen
            seen += units
            self._watch(seen)

        yield advance


@dataclass(frozen=True)
class Training:
    """A small training that a test can start, stop and change."""

    scratch: Path
    method: Method

    def run(
        self,
        *,
        watch: Callable[[int], None] | None = None,
        split: Split | None = None,
        network: Network | None = None,
        identity: str = "same",
        objective: Objective = cross_entropy,
    ) -> TrainingResult:
        if network is None:
            torch.manual_seed(0)
            network = Network(graph(thin_spec()))
        feed = Feed(
            split or random_split(),
            Preprocess(resize=0, crop=SIDE),
            self.method.augment,
            classes=3,
            batch=self.method.batch,
            seed=7,
        )
        return fit(
            network,
            objective,
            feed,
            self.method,
            device=torch.device("cpu"),
            snapshots=Snapshots(self.scratch, identity),
            progress=Watched(watch) if watch else Silent(),
            label="train thin",
        )


METHOD = Method(
    epochs=4,
    batch=8,
    lr=0.05,
    weight_decay=1e-4,
    ema=0.9,
    progressive=0.7,
    schedule=Schedule(kind="onecycle"),
    augment=Augment(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
)
