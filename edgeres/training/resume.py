"""``Snapshots``: training state on disk, from which a killed training continues.

A snapshot is one ``.safetensors`` file with other values as JSON in its header, so one rename replaces it atomically.
No generator state is needed: every random draw is a function of (seed, epoch, image).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgeres.errors import StoreError
from edgeres.settings import canonical

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

NAME = "training.safetensors"

OVERHEAD = 0.05  # largest share of the time spent on writing snapshots
LONGEST_S = 300.0  # largest loss of work by a kill in seconds, where an epoch takes longer


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a training between two steps.

    ``tensors`` are those of network, optimizer and average by name, ``figures`` running sums and counters,
    ``conditions`` devices and arithmetic of the steps, in order, without repetition.
    """

    step: int
    tensors: dict[str, Tensor]
    figures: dict[str, float]
    conditions: tuple[str, ...]


class Snapshots:
    """The snapshot of one training in a folder.

    The folder is created on first use. ``identity`` is the digest of everything that determines the result; a snapshot
    of another training is ignored.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._path = folder / NAME
        self._identity = identity
        self._saved_at = monotonic()
        self._cost = 0.0

    def latest(self) -> Snapshot | None:
        """The snapshot of this training, or None; ``StoreError`` where the file is damaged."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["edgeres"])
                if record["identity"] != self._identity:
                    return None
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # a reader, no mapping
                return Snapshot(record["step"], tensors, record["figures"], tuple(record["conditions"]))
        except (OSError, SafetensorError, ValueError, KeyError) as failure:
            raise StoreError(
                f"{self._path} is damaged: {failure}", "delete it; training then starts from the beginning"
            ) from failure

    def due(self, *, epoch_ended: bool) -> bool:
        """Whether to save now: after an epoch while writing is cheap, and within a long one every ``LONGEST_S``."""
        waited = monotonic() - self._saved_at
        return waited > (self._cost / OVERHEAD if epoch_ended else max(LONGEST_S, self._cost / OVERHEAD))

    def save(self, snapshot: Snapshot) -> None:
        """Writes the snapshot atomically; a kill leaves the old file or the new one.

        Raises:
            StoreError: The folder cannot be written, or the disk is full.
        """
        started = monotonic()
        record = {"step": snapshot.step, "figures": snapshot.figures, "conditions": snapshot.conditions}
        beside = self._path.with_suffix(f".{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file(snapshot.tensors, beside, metadata={"edgeres": canonical({"identity": self._identity, **record})})
            beside.replace(self._path)
        except (OSError, SafetensorError) as failure:
            beside.unlink(missing_ok=True)
            raise StoreError(
                f"{self._path} cannot be written: {failure}", "free some space or choose another folder"
            ) from failure
        self._saved_at = monotonic()
        self._cost = self._saved_at - started
