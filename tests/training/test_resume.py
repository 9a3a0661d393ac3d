from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from edgeres.errors import StoreError
from edgeres.training import resume
from edgeres.training.resume import NAME, Snapshot, Snapshots

if TYPE_CHECKING:
    from smalltraining import Training

SNAPSHOT = Snapshot(3, {"network.a": torch.arange(4.0)}, {"loss_sum": 0.1}, ("here",))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot behind every step."""
    monkeypatch.setattr(Snapshots, "due", lambda self, epoch_ended: True)


def test_snapshot_comes_back_and_another_trainings_does_not(tmp_path: Path) -> None:
    Snapshots(tmp_path / "new", "mine").save(SNAPSHOT)
    found = Snapshots(tmp_path / "new", "mine").latest()
    assert found is not None
    assert torch.equal(found.tensors["network.a"], SNAPSHOT.tensors["network.a"])
    assert (found.step, found.figures, found.conditions) == (3, {"loss_sum": 0.1}, ("here",))
    assert Snapshots(tmp_path / "new", "other").latest() is None
    assert Snapshots(tmp_path / "empty", "mine").latest() is None


def test_failed_write_leaves_the_old_snapshot_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots(tmp_path, "mine")
    snapshots.save(SNAPSHOT)

    def full(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "save_file", full)
    with pytest.raises(StoreError, match="No space left"):
        snapshots.save(Snapshot(4, {}, {}, ()))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    found = snapshots.latest()
    assert found is not None
    assert found.step == 3


def test_damaged_snapshot_is_refused_with_its_path(tmp_path: Path) -> None:
    Snapshots(tmp_path, "mine").save(SNAPSHOT)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:-3])
    with pytest.raises(StoreError, match=NAME):
        Snapshots(tmp_path, "mine").latest()
    save_file({"a": torch.zeros(1)}, tmp_path / NAME)
    with pytest.raises(StoreError, match="damaged"):
        Snapshots(tmp_path, "mine").latest()


def test_writing_takes_a_bounded_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(resume, "monotonic", lambda: now[0])
    snapshots = Snapshots(tmp_path, "mine")
    now[0] += 0.1
    assert snapshots.due(epoch_ended=True)
    assert not snapshots.due(epoch_ended=False)
    snapshots._cost, snapshots._saved_at = 1.0, now[0]
    now[0] += 19
    assert not snapshots.due(epoch_ended=True)
    now[0] += 2
    assert snapshots.due(epoch_ended=True)
    now[0] += 280
    assert snapshots.due(epoch_ended=False)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("images", [24, 32, 88])
def test_run_stopped_by_an_exception_ends_in_the_same_bytes(training: Training, images: int) -> None:
    def stop(seen: int) -> None:
        if seen == images:
            raise RuntimeError("stop")

    whole = training.run(identity="whole")
    with pytest.raises(RuntimeError, match="stop"):
        training.run(watch=stop)
    starts: list[int] = []
    resumed = training.run(watch=starts.append)
    assert starts[0] == images - 8
    assert resumed.weights.digest == whole.weights.digest
    assert resumed.metrics == whole.metrics
    assert resumed.conditions == whole.conditions


@pytest.mark.usefixtures("eager")
def test_adamw_resumes_in_the_same_bytes(training: Training) -> None:
    def stop(seen: int) -> None:
        if seen == 40:
            raise RuntimeError("stop")

    training = replace(training, method=replace(training.method, optimizer="adamw", lr=1e-3, clip=0.5, ema=0.0))
    whole = training.run(identity="whole")
    with pytest.raises(RuntimeError, match="stop"):
        training.run(watch=stop)
    assert training.run().weights.digest == whole.weights.digest


def test_ctrl_c_keeps_the_last_whole_step(training: Training) -> None:
    def press(seen: int) -> None:
        if seen == 40:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    whole = training.run(identity="whole")
    with pytest.raises(KeyboardInterrupt):
        training.run(watch=press)
    assert signal.getsignal(signal.SIGINT) is before
    starts: list[int] = []
    assert training.run(watch=starts.append).weights.digest == whole.weights.digest
    assert starts[0] == 40


def test_kill_minus_nine_ends_in_the_same_bytes(training: Training) -> None:
    """The child kills itself in the middle of a snapshot's write, in the third of four epochs."""
    script = f"""
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from smalltraining import METHOD, Training
from edgeres.training import resume
written = []
whole = resume.save_file
def dying(tensors, path, metadata):
    written.append(path)
    if len(written) == 7:
        Path(path).write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    whole(tensors, path, metadata)
resume.save_file = dying
resume.Snapshots.due = lambda self, epoch_ended: True
torch.set_num_threads({torch.get_num_threads()})
Training(Path({str(training.scratch)!r}), METHOD).run()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.run([sys.executable, "-c", script], env=environment, check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    starts: list[int] = []
    resumed = training.run(watch=starts.append)
    assert starts[0] == 6 * 8
    assert resumed.weights.digest == training.run(identity="whole").weights.digest


@pytest.mark.usefixtures("eager")
def test_going_on_elsewhere_is_said(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(seen: int) -> None:
        if seen == 24:
            raise RuntimeError("stop")

    training = replace(training, method=replace(training.method, precision="float32"))
    with pytest.raises(RuntimeError, match="stop"):
        training.run(watch=stop)
    monkeypatch.setattr("edgeres.training.loop.conditions", lambda device, dtype: "trained elsewhere")
    first, second = training.run().conditions
    assert first.startswith("trained in float32 on")
    assert second == "trained elsewhere"
