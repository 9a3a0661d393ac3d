"""Which variant a table calls the fastest, what should ship, and what is blamed."""

from dataclasses import replace

import pytest

from edgeres.backends.backend import LayerTime
from edgeres.latency.benchmark.result import (
    BenchmarkResult,
    HostLoad,
    Ratio,
    VariantResult,
    bottlenecks,
    sentences,
    should_ship,
)

ONE = Ratio(value=1, low=1, high=1)
BUSY = HostLoad(cpu="a CPU", cores=2, pinned=(0, 1), governor=None, load_before=0, load_after=0, stolen=None)
LAYERS = (
    LayerTime(name="layer1.conv", kind="QLinearConv", role="integer", ms=3),
    LayerTime(name="pool", kind="MaxPool", role="other", ms=2),
    LayerTime(name="image.quantize", kind="QuantizeLinear", role="reformat", ms=0.5),
    LayerTime(name="layer4.conv", kind="Conv", role="float", ms=2.5),
)


def about(value):
    return Ratio(value=value, low=0.97 * value, high=1.03 * value)


def row(runtime, precision, ms, *, own=False, ships=False, twin=None, first=1.0, floats=1.0):
    return VariantResult(
        runtime=runtime, version="1", precision=precision, own=own, ships=ships, p50_ms=ms, low_ms=ms, high_ms=ms,
        p10_ms=ms, p90_ms=ms, n=10, rounds=5, speedup=about(floats / ms), over_float=twin and about(twin / ms),
        to_fastest=ONE if ms == first else about(first / ms), peak_share=None,
    )  # fmt: skip


def table(int8, float32, *, elsewhere=None, accurate=True, layers=LAYERS):
    """INT8 and float32 on the target's runtime, and INT8 on another."""
    times = [time for time in (int8, float32, elsewhere) if time is not None]
    first = min(times)
    rows = [
        row("onnxruntime", "int8", int8, own=True, ships=True, twin=float32, first=first, floats=float32),
        row("onnxruntime", "float32", float32, own=True, first=first, floats=float32),
    ]
    if elsewhere is not None:
        rows.append(row("openvino", "int8", elsewhere, first=first, floats=float32))
    rows.sort(key=lambda each: each.p50_ms)
    return BenchmarkResult(
        network="net", target="cpu", here=True, accurate=accurate, macs=1000, threads=2, seconds=1.0, rows=tuple(rows),
        machine=BUSY, layers={"onnxruntime": layers},
    )  # fmt: skip


def test_faster_int8_is_deployed_without_bottlenecks():
    result = table(1.0, 3.0)
    assert should_ship(result).precision == "int8"
    assert sentences(result) == (
        "fastest: int8 on onnxruntime, 1 ms, 3.00 times (2.91 to 3.09) as fast as the fastest float32",
        "what ships: int8 on onnxruntime, 3.00 times (2.91 to 3.09) as fast as float32 there",
    )


def test_int8_that_is_slower_does_not_ship_and_its_float_layers_are_named_by_their_time():
    result = table(3.0, 2.0)
    assert should_ship(result).precision == "float32"
    fastest, ship, limits = sentences(result)
    assert fastest.startswith("fastest: float32 on onnxruntime, 2 ms")
    assert ship.startswith("ship the float variant: int8 on onnxruntime is 0.67 times")
    assert "--variant float" in ship
    assert limits == (
        "int8 on onnxruntime: 38% of its time is float layers and reformats: layer4.conv (Conv, float) 2.5 ms, "
        "image.quantize (QuantizeLinear, reformat) 0.5 ms"
    )


def test_tie_keeps_int8_and_is_reported():
    result = table(1.0, 1.01)
    assert should_ship(result).precision == "int8"
    lines = sentences(result)
    assert lines[0].endswith("not distinguishable from float32 on onnxruntime")
    assert "not distinguishable from float32 there" in lines[1]
    assert "layer4.conv" in lines[2]


def test_int8_that_broke_its_accuracy_limit_never_ships():
    result = table(1.0, 3.0, accurate=False)
    assert should_ship(result).precision == "float32"
    assert any("broke its accuracy limit" in sentence for sentence in sentences(result))


def test_a_faster_runtime_is_named():
    assert any(
        sentence == "int8 on openvino takes 1 ms where int8 on onnxruntime takes 2 ms"
        for sentence in sentences(table(2.0, 6.0, elsewhere=1.0))
    )
    assert not any(" where " in sentence for sentence in sentences(table(1.0, 6.0, elsewhere=2.0)))


def test_precision_without_a_gate_is_not_deployed():
    result = table(2.0, 6.0)
    narrow = row("openvino", "bfloat16", 1.0, floats=6.0)
    result = replace(result, rows=(narrow, *(replace(each, to_fastest=about(1 / each.p50_ms)) for each in result.rows)))
    assert should_ship(result).precision == "int8"
    assert "the accuracy gate has not checked bfloat16 on openvino" in sentences(result)


def test_no_variant_is_recommended_for_a_target_elsewhere():
    result = table(1.0, 3.0)
    foreign = tuple(replace(each, own=False, ships=False) for each in result.rows)
    result = replace(result, target="jetson-orin-nano", here=False, rows=foreign)
    assert should_ship(result) is None
    assert "none of this was timed on jetson-orin-nano: its runtime does not run here" in sentences(result)


def test_where_all_is_in_integers_the_slowest_are_named():
    lines = sentences(table(3.0, 2.0, layers=LAYERS[:2]))
    assert lines[-1].endswith("nothing is reformatted; slowest: layer1.conv 3 ms, pool 2 ms")


def test_bottlenecks_are_sorted_by_time():
    assert [layer.name for layer in bottlenecks(LAYERS)] == ["layer4.conv", "image.quantize"]


def test_a_table_out_of_order_is_refused():
    result = table(1.0, 3.0)
    with pytest.raises(ValueError, match="not sorted"):
        replace(result, rows=result.rows[::-1])
