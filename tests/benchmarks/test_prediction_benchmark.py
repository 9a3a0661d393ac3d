"""The public rows, the fit to them, and what is left out of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.latencies import Pair, disagreements, pairs, read
from benchmarks.prediction import Errors, _left_out, table, validated, with_bands
from benchmarks.profile import main as profile_main
from benchmarks.roofline_fit import FORMS, fit, roofline
from edgeres.model.spec import PRESETS
from edgeres.roofline import kernel_classes

ROWS = read()
PAIRS = pairs(ROWS)


def of(name: str) -> tuple[list, list]:
    return [row for row in ROWS if row.kind == name], [two for two in PAIRS if two.known.kind == name]


def test_every_row_is_a_preset_of_a_class_with_a_source():
    assert len(ROWS) == 1154
    assert {row.kind for row in ROWS} == set(FORMS)
    for row in ROWS:
        assert row.network in PRESETS
        assert row.ms > 0
        assert row.source.startswith("s")
        assert row.precision in ("int8", "fp16", "fp32")


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
    fitted = fit(name, *of(name))
    shipped = kernel_classes()[name]
    assert replace(shipped, calibrated=fitted.calibrated, uncalibrated=None) == fitted


def test_the_shipped_errors_are_those_of_chips_left_out():
    (kind,) = with_bands([validated("jetson", ROWS, PAIRS)])
    shipped = kernel_classes()["jetson"]
    assert kind.uncalibrated == shipped.uncalibrated
    ours, theirs = kind.calibrated, shipped.calibrated
    assert (ours.median_pct, ours.p90_pct, ours.predictions) == (theirs.median_pct, theirs.p90_pct, theirs.predictions)
    assert theirs.factor >= ours.factor  # few chips: no narrower than all classes together


def test_a_fit_finds_the_parameters_rows_were_made_from():
    kind = replace(kernel_classes()["jetson"], balance=100.0, call_ms=0.2, efficiency=0.388)
    rows = [replace(row, ms=roofline(kind, replace(row, gbs=None)).total_ms(row.works)) for row in of("jetson")[0]]
    found = fit("jetson", rows, pairs(rows))
    assert (found.balance, found.call_ms) == (100.0, 0.2)
    assert found.efficiency == pytest.approx(0.388, rel=0.03)


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
    found = Errors((1.1, 0.8, 1.0, 2.0), 2)
    assert found.relative == pytest.approx((15.0, 76.0))
    assert found.factor == pytest.approx(2**0.7 * 1.25**0.3)
    assert Errors((), 0).missed() is None
    assert Errors((), 0).cell() == "-"
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
