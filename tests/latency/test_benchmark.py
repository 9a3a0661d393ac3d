"""A whole table of a small network, each runtime in a worker of its own.

Runtimes really run; where a verdict on what is faster is asserted, their times are replaced by the sizes of their
graphs, which no load of the machine changes.
"""

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import bench_networks
import onnx
import pytest

from edgeres.errors import UsageError
from edgeres.latency.benchmark import benchmark as bench_module
from edgeres.latency.benchmark.benchmark import BenchmarkSubject, bench, pinned
from edgeres.latency.benchmark.interleaved import BurstTiming
from edgeres.latency.benchmark.result import bottlenecks, should_ship
from edgeres.onnx_graph import operator_counts
from edgeres.progress import Silent
from edgeres.settings import plain

QUICK = BurstTiming(burst_s=0.01, least=4, most=4)
SUBJECT = BenchmarkSubject("small", "cpu", "onnxruntime", 10_000_000, accurate=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    found = bench_networks.found(folder, "onnxruntime", "torch")
    macs = operator_counts.macs(onnx.load(str(folder / "graphs" / "float.onnx")))
    return bench(replace(SUBJECT, macs=macs), found, Silent(), threads=1, timing=QUICK)


def test_every_variant_has_a_row_and_the_fastest_is_first(table):
    assert sorted(row.name for row in table.rows) == [
        "float32 on onnxruntime",
        "float32 on torch",
        "int8 on onnxruntime",
    ]
    assert [row.p50_ms for row in table.rows] == sorted(row.p50_ms for row in table.rows)
    assert table.rows[0].to_fastest.value == 1
    assert all(row.low_ms <= row.p50_ms <= row.high_ms for row in table.rows)
    assert all(row.rounds == 4 and row.n >= 8 for row in table.rows)


def row_of(table, precision):
    (found,) = (row for row in table.rows if (row.runtime, row.precision) == ("onnxruntime", precision))
    return found


def test_ratios_are_those_of_the_medians(table):
    floats = min(row.p50_ms for row in table.rows if row.precision == "float32")
    for row in table.rows:
        assert row.speedup.value == pytest.approx(floats / row.p50_ms)
    int8, twin = row_of(table, "int8"), row_of(table, "float32")
    assert int8.over_float.value == pytest.approx(twin.p50_ms / int8.p50_ms)
    assert (int8.ships, int8.own, twin.ships, twin.over_float) == (True, True, False, None)


def test_the_share_of_the_peak_is_macs_over_time_over_peak(table):
    peaks = {peak.precision: peak for peak in table.peaks}
    for row in table.rows:
        if peak := peaks.get(row.precision):
            assert row.peak_share == pytest.approx(table.macs / (1e6 * row.p50_ms * peak.gmacs))
    assert all(peak.median_gmacs <= peak.gmacs for peak in table.peaks)
    assert {"int8", "float32"} == peaks.keys() | {name.removesuffix(" peak") for name in table.absent}


def test_the_machine_is_recorded_and_json_holds_all_of_it(table):
    assert table.machine.cpu
    assert table.machine.pinned == pinned(1)
    found = json.loads(json.dumps(plain(table)))
    assert found["schema"] == "edgeres.bench/1"
    assert {"rows", "peaks", "machine", "layers", "absent", "threads", "batch", "macs"} <= found.keys()
    assert found["layers"]["onnxruntime"][0]["ms"] > 0


def test_float_layer_is_a_bottleneck(tmp_path):
    found = bench_networks.found(tmp_path, "onnxruntime", float_layers=("fc", "layer2.0.conv2"))
    table = bench(SUBJECT, found, Silent(), threads=1, timing=QUICK)
    floats = [layer for layer in bottlenecks(table.layers["onnxruntime"]) if layer.role == "float"]
    assert any("layer2.0.conv2" in layer.name for layer in floats)
    assert {layer.role for layer in table.layers["onnxruntime"]} >= {"integer", "float", "reformat"}


@pytest.fixture
def lawful(monkeypatch):
    """Every worker runs, and what it says is replaced: a call takes 1 us for each node of its graph, a layer 1 us."""

    @contextmanager
    def start_worker(job, original=bench_module.start_worker):
        with original(job) as worker:
            yield SimpleNamespace(ask=lambda order: _by_nodes(job, order, worker.ask(order)))

    monkeypatch.setattr(bench_module, "start_worker", start_worker)


def _by_nodes(job, order, answer):
    if job.variant is None:
        return answer
    if order.layers:
        return {"layers": [{**layer, "ms": 0.001} for layer in answer["layers"]]}
    engine, int8 = job.variant.engine, job.variant.precision == "int8"
    entry = engine.files[engine.entry] if int8 else engine.exported.float_model
    return {"ms": [0.001 * len(onnx.load(entry.path).graph.node)] * order.calls}


@pytest.mark.usefixtures("lawful")
def test_slowed_variant_is_neither_fastest_nor_deployed(tmp_path):
    found = bench_networks.found(tmp_path, "onnxruntime")
    (tmp_path / "wide").mkdir()
    wide = bench_networks.exported(tmp_path / "wide")
    slowed = onnx.load(str(wide.model.path))
    _plant(slowed, 40)
    path = tmp_path / "wide" / "slow.onnx"
    path.write_bytes(slowed.SerializeToString())
    from edgeres.artifacts.artifact import File

    slow = File.of(path)
    variants = (
        replace(variant, engine=replace(variant.engine, files={variant.engine.entry: slow}))
        if variant.precision == "int8"
        else variant
        for variant in found.variants
    )
    found = replace(found, variants=tuple(variants))
    table = bench(SUBJECT, found, Silent(), threads=1, timing=QUICK)
    assert table.rows[0].name == "float32 on onnxruntime"
    assert row_of(table, "int8").over_float.slower
    assert should_ship(table).precision == "float32"
    blamed = bottlenecks(table.layers["onnxruntime"])
    assert sum("planted" in layer.name for layer in blamed) == 40
    assert sum(layer.ms for layer in blamed if "planted" in layer.name) > 0.5 * sum(layer.ms for layer in blamed)


def _plant(model, times):
    """Multiplies the image by the identity, often: float products that nothing fuses or quantizes."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    first = next(node for node in graph.node if graph.input[0].name in node.input)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(32, dtype=np.float32), "identity"))
    place, name = list(graph.node).index(first), graph.input[0].name
    for index in range(times):
        made = f"planted{index}"
        graph.node.insert(place + 2 * index, helper.make_node("MatMul", [name, "identity"], [made], name=made))
        graph.node.insert(place + 2 * index + 1, helper.make_node("Sin", [made], [f"{made}s"], name=f"{made}s"))
        name = f"{made}s"
    first.input[0] = name


def test_one_variant_alone_is_its_own_fastest(tmp_path):
    found = bench_networks.found(tmp_path, "onnxruntime")
    found = replace(found, variants=found.variants[:1])
    table = bench(replace(SUBJECT, backend="tensorrt"), found, Silent(), threads=1, timing=QUICK)
    (row,) = table.rows
    assert (row.own, row.speedup.value, table.here, table.layers) == (False, 1, False, {})


def test_runtimes_that_are_not_there_have_a_reason(tmp_path):
    found = bench_networks.found(tmp_path, "tensorrt", "onnxruntime_mobile", "tensorrt_rtx")
    assert not found.variants
    assert found.absent["onnxruntime_mobile"] == "what it builds runs on its device, not here"
    with pytest.raises(UsageError, match="no runtime of this host takes the network"):
        bench(SUBJECT, found, Silent(), threads=1, timing=QUICK)


def test_an_unknown_runtime_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'openvino'"):
        bench_networks.found(tmp_path, "openvno")


def test_threads_get_cores_before_second_hardware_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for cpu, siblings in {0: "0,1", 1: "0,1", 2: "2,3", 3: "2,3"}.items():
        place = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(siblings + "\n")
    assert pinned(2, tmp_path) == (0, 2)
    assert pinned(3, tmp_path) == (0, 2, 1)
    with pytest.raises(UsageError, match="5 threads on 4 processors"):
        pinned(5, tmp_path)
