"""Workers as real processes: stopped between their turns, and gone when anybody ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import bench_networks
import pytest

from edgeres.artifacts.artifact import File
from edgeres.errors import StageError
from edgeres.latency.benchmark.worker import WorkerRequest, WorkerSpec, start_worker
from edgeres.settings import canonical, plain

ONE = WorkerRequest(calls=1)
PATIENCE_S = 300
"""After which a process that does not change is given up, also on a machine with much else to do."""

HOLD = """
import os, signal, sys, time
from edgeres.latency.benchmark.worker import start_worker
from edgeres.latency.benchmark.worker import WorkerSpec, WorkerRequest
from edgeres.settings import parse
import json
with start_worker(parse(WorkerSpec, json.loads(sys.argv[1]), "job")) as worker:
    worker.ask(WorkerRequest(calls=1))
    print(worker._process.pid, flush=True)
    time.sleep(3600)
"""


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    found = bench_networks.found(tmp_path_factory.mktemp("crew"), "onnxruntime")
    assert found.absent == {}
    return {variant.name: variant for variant in found.variants}


def with_float_model(variant, file):
    exported = replace(variant.engine.exported, float_model=file)
    return replace(variant, engine=replace(variant.engine, exported=exported))


def state(pid):
    """The kernel's letter for a process; None where there is none. proc(5): it follows the name in brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def becomes(pid, *letters):
    until = time.monotonic() + PATIENCE_S
    while state(pid) not in letters:
        assert time.monotonic() < until, state(pid)
        time.sleep(0.01)
    return True


def test_a_worker_runs_only_while_it_answers(variants):
    with start_worker(WorkerSpec(variant=variants["int8 on onnxruntime"], cores=(0,))) as worker:
        assert becomes(worker._process.pid, "T")
        answer = worker.ask(WorkerRequest(calls=3, warmup=2))
        assert len(answer["ms"]) == 3
        assert min(answer["ms"]) > 0
        assert becomes(worker._process.pid, "T")
        pid = worker._process.pid
    assert state(pid) is None


def test_all_loaded_workers_but_the_running_one_are_stopped(variants):
    with ExitStack() as stack:
        crew = [
            stack.enter_context(start_worker(WorkerSpec(variant=variant, cores=(0,)))) for variant in variants.values()
        ]
        for worker in crew:
            assert len(worker.ask(ONE)["ms"]) == 1
            assert all(becomes(other._process.pid, "T") for other in crew)


def test_killed_worker_is_reported(variants):
    with start_worker(WorkerSpec(variant=variants["float32 on onnxruntime"], cores=(0,))) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(StageError, match="a worker ended with -9"):
            worker.ask(ONE)


def test_refusal_of_a_runtime_is_quoted(variants, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    variant = with_float_model(variants["float32 on onnxruntime"], File.of(broken))
    with (
        pytest.raises(StageError, match=r"ONNX Runtime refused broken\.onnx"),
        start_worker(WorkerSpec(variant=variant, cores=(0,))),
    ):
        pass


def test_a_file_that_changed_is_not_loaded(variants):
    variant = variants["float32 on onnxruntime"]
    changed = with_float_model(variant, replace(variant.engine.exported.float_model, sha256="0" * 64))
    with (
        pytest.raises(StageError, match="changed after it was made"),
        start_worker(WorkerSpec(variant=changed, cores=(0,))),
    ):
        pass


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_stopped_workers_end_with_their_parent(variants, signal_):
    job = canonical(plain(WorkerSpec(variant=variants["float32 on onnxruntime"], cores=(0,))))
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLD, job], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pid = int(parent.stdout.readline())
    assert becomes(pid, "T")
    parent.send_signal(signal_)
    parent.wait(PATIENCE_S)
    assert becomes(pid, None, "Z")
    parent.stdout.close()
