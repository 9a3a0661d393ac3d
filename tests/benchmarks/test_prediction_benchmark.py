"""The public rows, the fit to them, and what is left out of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.latencies import Pair, disagreements, pairs, read
from benchmarks.prediction import Errors, _left_out, table, validated, with_bands
from benchmarks.profile import main as profile_main
from benchmarks.roofline_fit import FORMS, Fitted, fit, roofline
from edgeres.latency.roofline import kernel_classes
from edgeres.model.presets import PRESETS

ROWS = read()
PAIRS = pairs(ROWS)


def of(name: str) -> tuple[list, list]:
    return [row for row in ROWS if row.kind == name], [two for two in PAIRS if two.known.kind == name]


def test_every_row_is_a_preset_of_a_class_with_a_source():
    assert len(ROWS) == 1157
    assert {row.kind for row in ROWS} == set(FORMS)
    for row in ROWS:
        assert row.network in PRESETS
        assert row.ms > 0
        assert row.source.startswith("s")
        assert row.precision in ("int8", "fp16", "fp32")
        assert row.figure in (None, "gpu_compute", "host_latency")


def test_rows_say_which_figure_they_are_where_their_source_does():
    known = {(row.runtime, row.figure) for row in ROWS if row.kind.startswith(("jetson", "card"))}
    assert ("tensorrt 10.3", "gpu_compute") in known
    assert ("mlperf v3.0 tensorrt", "host_latency") in known
    assert ("tensorrt 7.1.3", None) in known
    assert {row.judged for row in ROWS if row.figure is None} == {"host_latency"}


def test_an_entry_is_one_device_and_one_setting():
    for two in PAIRS:
        a, b = two.known, two.asked
        assert (a.device, a.runtime, a.precision, a.threads, a.size) == (
            b.device,
            b.runtime,
            b.precision,
            b.threads,
            b.size,
        )
        assert a.network != b.network
    assert max(Counter((row.entry, row.network) for row in ROWS).values()) == 1


def test_two_sources_of_one_figure():
    row = replace(ROWS[0], ms=10.0)
    assert disagreements([row, replace(row, ms=12.0)]) == pytest.approx([2 / 12, 0.2])
    assert disagreements([row, replace(row, network="resnet34", ms=12.0)]) == []


@pytest.mark.parametrize("name", FORMS)
def test_what_ships_is_what_the_rows_give(name):
    """``python -m benchmarks.prediction --write`` after any change of rows or fit."""
    fitted = fit(name, *of(name)).kind
    shipped = kernel_classes()[name]
    assert replace(shipped, calibrated=fitted.calibrated, uncalibrated=None) == fitted


def test_the_shipped_errors_are_those_of_chips_left_out():
    """Of few chips the band is no narrower than that of the related classes together."""
    found = [validated(name, ROWS, PAIRS) for name in FORMS if name.startswith("jetson")]
    kinds = {kind.name: kind for kind in with_bands(found)}
    for name, ours in kinds.items():
        shipped = kernel_classes()[name]
        assert ours.uncalibrated == shipped.uncalibrated
        own = next(row for row in found if row.kind.name == name).peaks_chip
        assert own.chips <= 3
        assert shipped.uncalibrated.factor >= own.missed().factor
    assert (
        kinds["jetson_xavier"].calibrated.predictions == kernel_classes()["jetson_xavier"].calibrated.predictions == 32
    )


def test_a_class_without_pairs_has_the_band_of_all():
    assert not [two for two in PAIRS if two.known.kind == "jetson"]
    borrowed = kernel_classes()["jetson"].calibrated
    assert borrowed.pooled
    assert borrowed.predictions > 1000
    assert not any(kind.calibrated.pooled for kind in kernel_classes().values() if kind.name != "jetson")


def test_orin_nano_is_predicted_with_its_rows_and_without_them():
    """One network in three precisions: 13 % off at most by what ships, 15 % by a fit to the other Orins alone."""
    rows, _ = of("jetson")
    nano = [row for row in rows if row.chip == "Orin Nano"]
    assert [row.figure for row in nano] == ["gpu_compute"] * 3
    others = fit("jetson", [row for row in rows if row.chip != "Orin Nano"], ())
    for row in nano:
        shipped = roofline(kernel_classes()["jetson"], row).total_ms(row.works, "gpu_compute")
        assert shipped == pytest.approx(row.ms, rel=0.13)
        assert others.ms(row) == pytest.approx(row.ms, rel=0.155)


def test_a_fit_finds_the_parameters_rows_were_made_from():
    kind = replace(kernel_classes()["jetson_xavier"], layer_us=8.0, efficiency=0.388)
    made = [
        replace(row, ms=roofline(kind, row).total_ms(row.works, row.judged) + 0.3 * row.wrapped)
        for row in of("jetson_xavier")[0]
    ]
    found = fit("jetson_xavier", made, pairs(made))
    assert (found.kind.layer_us, found.wrapper_ms) == (8.0, 0.3)
    assert found.kind.efficiency == pytest.approx(0.388, rel=0.03)


def test_a_wrapper_is_taken_off_what_calibrates_and_put_on_what_is_compared():
    """A pair made by the roofline with 0.3 ms of Python on top is predicted without an error."""
    fitted = Fitted(kernel_classes()["jetson_xavier"], 0.3)
    known = next(row for row in of("jetson_xavier")[0] if row.wrapped and row.network == "resnet18")
    small, large = (replace(known, network=name) for name in ("resnet18", "resnet50"))
    two = Pair(replace(small, ms=fitted.ms(small)), replace(large, ms=fitted.ms(large)))
    assert fitted.ms(small) == pytest.approx(roofline(fitted.kind, small).total_ms(small.works) + 0.3)
    assert fitted.asked_ms(two) == pytest.approx(two.asked.ms, rel=1e-3)


def test_nothing_of_what_is_left_out_reaches_the_fit():
    """Rows of one chip ten times as slow change its own errors alone."""
    rows, twos = of("card")
    slow = [replace(row, ms=10 * row.ms) if row.chip == "L4" else row for row in rows]
    before, _ = _left_out("card", rows, twos, lambda row: row.chip)
    after, _ = _left_out("card", slow, twos, lambda row: row.chip)
    own = [
        index
        for index, row in enumerate(sorted((r for r in rows if r.has_peak), key=lambda r: r.chip))
        if row.chip == "L4"
    ]
    assert [after.ratios[i] for i in own] == pytest.approx([before.ratios[i] / 10 for i in own])


def test_errors_in_closed_form():
    found = Errors((1.1, 0.8, 1.0, 2.0), ("a", "b", "a", "b"))
    assert (found.chips, found.enough) == (2, False)
    assert Errors((1.0,) * 10, tuple("abcabcabca")).enough
    assert found.relative == pytest.approx((15.0, 76.0))
    assert found.factor == pytest.approx(2**0.7 * 1.25**0.3)
    assert Errors((), ()).cell() == "-"
    assert found.missed(3.0).factor == 3.0


def test_a_pair_of_the_same_network_is_none():
    row = ROWS[0]
    assert pairs([row, replace(row, ms=2 * row.ms)]) == ()
    other = replace(row, network="resnet34")
    assert set(pairs([row, other])) == {Pair(row, other), Pair(other, row)}


def test_tables_show_every_class_and_all_together():
    found = [validated("card", ROWS, PAIRS)]
    text = table(found, with_bands(found))
    assert "| TensorRT on graphics cards, INT8 |" in text
    assert "| all " in text


def test_a_profile_that_is_not_there(capsys):
    assert profile_main(["--profile", "/nowhere.json"]) == 2
    assert "cannot read" in capsys.readouterr().err
