"""Rows, means, verdicts, what is kept, and one contender of each road on a thin network."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import bench, command, contenders, judge, quantizers, rungs
from benchmarks.bench import Bench, Settings
from benchmarks.contenders import PEERS, QUANTIZERS
from benchmarks.keep import Keep
from benchmarks.means import HEADS, Mean, Spread, means
from benchmarks.page import BRIEF, PAGE, brief, page
from benchmarks.quantizer import missing, versions
from benchmarks.row import Figures, Row
from benchmarks.rungs import Ours, source_digest
from benchmarks.tasks import TASKS
from benchmarks.verdicts import goals
from edgeres.errors import UsageError
from edgeres.ladder.ladder import RUNGS
from edgeres.model.graph import graph
from edgeres.model.zoo import save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

FIGURES = Figures(float_top1=80, top1=79, changed=2.5, drop_pp=1.0, low_pp=-0.5, high_pp=2.5, kl=0.002, sqnr_db=31.26)
TASK = "resnet20-digits"


def row(quantizer: str = "edgeres-calibrate", seed: int = 0, scheme: str = "x86", **judged: float) -> Row:
    figures = replace(FIGURES, **judged)
    return Row(
        TASK, scheme, quantizer, seed, 1234.5, seconds=5.25, load=1.0, integer=20, weighted=21,
        held_out=replace(figures, kl=figures.kl / 2), validation=figures,
    )  # fmt: skip


def mean(quantizer: str, **changes: object) -> Mean:
    (found,) = means([row(quantizer)], 1000)
    return replace(found, **changes)


def test_every_contender_has_a_title_of_its_own():
    titles = [quantizer.title for quantizer in QUANTIZERS.values()]
    assert len(set(titles)) == len(titles) == len(RUNGS) + len(PEERS)


def test_every_package_of_a_peer_is_pinned():
    pins = (command.CHECKOUT / "benchmarks/peers.txt", command.CHECKOUT / "constraints.txt")
    pinned = {
        line.partition("==")[0].lower() for path in pins for line in path.read_text().splitlines() if "==" in line
    }
    assert {package for name in PEERS for package in QUANTIZERS[name].packages} <= pinned


def test_every_rung_of_the_ladder_competes():
    assert set(rungs.RUNGS) == set(RUNGS)
    assert all(f"edgeres-{rung}" in QUANTIZERS for rung in RUNGS)


def test_only_contenders_with_an_answer_meet():
    found = quantizers.pairs(("tensorrt", "x86"), ("modelopt-max", "torchao-x86", "nncf"))
    assert found == (("tensorrt", "modelopt-max"), ("tensorrt", "nncf"), ("x86", "torchao-x86"), ("x86", "nncf"))


def test_means_and_spread_over_seeds_by_hand():
    drops, kls = (1.0, 2.0, 6.0), (1e-3, 2e-3, 3e-3)
    pairs = zip(drops, kls, strict=True)
    rows = [row(seed=seed, drop_pp=drop, kl=kl, low_pp=-drop) for seed, (drop, kl) in enumerate(pairs)]
    (found,) = means(rows, 1000)
    assert found.seeds == 3
    assert found.drop_pp.mean == pytest.approx(3)
    assert found.drop_pp.deviation == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    assert found.kl.mean == pytest.approx(2e-3)
    assert found.kl_held_out.mean == pytest.approx(1e-3)
    assert found.low_pp == pytest.approx(-3)


def test_a_mean_is_over_seeds_and_over_nothing_else():
    rows = [row(), row(scheme="tensorrt"), row("nncf"), row(seed=1)]
    assert [(one.scheme, one.quantizer, one.seeds) for one in means(rows, 9)] == [
        ("x86", "edgeres-calibrate", 2), ("tensorrt", "edgeres-calibrate", 1), ("x86", "nncf", 1),
    ]  # fmt: skip


def test_failed_seeds_leave_the_others_their_mean():
    (found,) = means([row(), Row(TASK, "x86", "edgeres-calibrate", 1, failure="killed")], 9)
    assert (found.seeds, found.failure) == (1, "")


def test_a_mean_as_the_table_shows_it():
    assert mean("edgeres-calibrate").cells() == (
        "edgeres calibrate", "1", "1.00 ± 0.00", "2.00 ± 0.00", "31.3 dB", "2.50 % ± 0.00", "79.00 %",
        "+1.00 pp ± 0.00 [-0.50, +2.50]", "20 of 21", "5", "1,234 MiB",
    )  # fmt: skip
    assert mean("edgeres-calibrate", load=7.0).cells()[9] == "5*"


def test_a_contender_without_figures_says_why():
    (found,) = means([Row(TASK, "x86", "nncf", 0, failure="not installed: pip install nncf")], 9)
    assert found.cells()[0] == "NNCF default: not installed: pip install nncf"
    assert len(found.cells()) == len(HEADS)


OURS = mean("edgeres-adaround", drop_pp=Spread(0.03, 0), changed=Spread(0.5, 0), kl=Spread(1e-4, 0))
FEWER = mean("edgeres-reconstruct", seeds=1, kl_held_out=Spread(1e-9, 0), kl=Spread(1e-9, 0))
PEER = mean("nncf", drop_pp=Spread(0.1, 0), changed=Spread(1.0, 0), kl=Spread(2e-4, 0))


def verdicts(*found: Mean) -> list[bool | None]:
    return [goal.met for goal in goals(found)]


def test_figures_on_the_limit_meet_every_goal():
    assert verdicts(OURS, PEER) == [True, True, True, True, True]


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"drop_pp": Spread(0.04, 0)}, 0),
        ({"changed": Spread(0.51, 0)}, 1),
        ({"kl": Spread(1.1e-4, 0)}, 2),
        ({"seconds": Spread(301, 0)}, 4),
    ],
)
def test_a_figure_beyond_its_limit_misses_its_goal_alone(worse: dict[str, Spread], missed: int):
    met = verdicts(replace(OURS, **worse), PEER)
    assert [place for place, one in enumerate(met) if not one] == [missed]


def test_best_peer_is_the_best_of_each_figure():
    other = mean("onnxruntime-minmax", drop_pp=Spread(0.1, 0), changed=Spread(0.8, 0), kl=Spread(9e-4, 0))
    told = goals([OURS, PEER, other])
    assert not told[1].met
    assert "ONNX Runtime MinMax 0.80 %, 0.62 of it" in told[1].told
    assert told[2].met
    assert "NNCF default" in told[2].told


def test_the_rung_is_chosen_on_held_out_images_and_judged_on_validation_images():
    luckier = mean("edgeres-reconstruct", drop_pp=Spread(-1, 0), kl=Spread(1e-9, 0), kl_held_out=Spread(1, 0))
    assert goals([OURS, luckier, PEER])[0].told.startswith("edgeres adaround")


@pytest.mark.parametrize(
    ("peer", "behind"),
    [
        ({"drop_pp": Spread(-9.0, 0)}, "drop of NNCF default"),
        ({"drop_pp": Spread(-1.0, 0)}, None),  # half of each interval is 1.5 pp
        ({"changed": Spread(0.1, 0)}, None),  # 5 +- 4.4 images of 1000 against 1 +- 2
        ({"changed": Spread(0.01, 0)}, "changed predictions of NNCF default"),
        ({"kl": Spread(5e-5, 0)}, "KL of NNCF default"),
        ({"kl": Spread(5e-5, 1e-4)}, None),  # one seed's error is its deviation
    ],
)
def test_behind_is_only_what_noise_cannot_be(peer: dict[str, Spread], behind: str | None):
    told = goals([OURS, replace(PEER, **peer)])[3]
    if behind is None:
        assert told.met
    else:
        assert not told.met
        assert behind in told.told


def test_more_seeds_make_kl_less_noisy():
    peer = replace(PEER, kl=Spread(5e-5, 3e-5))
    assert goals([OURS, peer])[3].met
    assert not goals([OURS, replace(peer, seeds=5)])[3].met


def test_without_peers_or_rungs_there_is_no_verdict():
    absent = replace(PEER, failure="not installed: pip install nncf")
    assert verdicts(OURS, absent) == [True, None, None, None, True]
    assert verdicts(PEER) == [None]


def test_the_page_has_a_table_and_verdicts_per_scheme_and_the_brief_what_was_missed():
    found = [OURS, PEER, replace(OURS, scheme="tensorrt", drop_pp=Spread(0.5, 0)), replace(PEER, scheme="tensorrt")]
    told = page(found, 512, 3925, 1024)
    assert told.count("| quantizer") == told.count("never behind any peer") == 2
    assert "512 calibration images, 3,925 validation" in told
    tensorrt, x86 = brief(found).splitlines()[::-1]
    assert "5 of 5 goals met" in x86
    assert x86.endswith("met")
    assert "edgeres adaround +0.500 pp, 0.470 pp too much" in tensorrt


KEY = {"task": TASK, "scheme": "x86", "quantizer": "nncf", "seed": 0, "versions": {"nncf": "3.4.0"}}


def test_a_kept_row_comes_back_for_its_key_and_for_no_other(tmp_path: Path):
    keep = Keep(tmp_path)
    assert keep.find(KEY) is None
    keep.put(KEY, row("nncf"))
    assert keep.find(dict(reversed(KEY.items()))) == row("nncf")
    assert keep.find({**KEY, "seed": 1}) is None
    assert keep.find({**KEY, "versions": {"nncf": "3.5.0"}}) is None


def test_what_failed_is_not_kept(tmp_path: Path):
    Keep(tmp_path).put(KEY, Row(TASK, "x86", "nncf", 0, failure="killed, out of memory"))
    assert not list(tmp_path.iterdir())


def test_a_row_survives_json():
    assert Row.of(json.loads(json.dumps(row().plain()))) == row()


def test_ours_is_measured_again_when_its_code_changes(tmp_path: Path):
    code = tmp_path / "edgeres/quant/bias.py"
    code.parent.mkdir(parents=True)
    code.write_text("a = 1\n", encoding="utf-8")
    before = source_digest(tmp_path)
    assert source_digest(tmp_path) == before
    code.write_text("a = 2\n", encoding="utf-8")
    assert source_digest(tmp_path) != before


def test_absent_packages_are_named_with_their_pip_line():
    class Absent(Ours):
        packages = ("numpy", "edgeres-no-such-package")

    quantizer = Absent("calibrate")
    assert missing(quantizer) == "no edgeres-no-such-package here: pip install --no-deps -r benchmarks/peers.txt"
    assert list(versions(quantizer)) == ["numpy"]
    assert missing(QUANTIZERS["edgeres-calibrate"]) is None


@pytest.fixture
def trained(thin, thin_weights, tmp_path: Path) -> Path:
    """Stands in for a trained network: no word about it is taken at its accuracy."""
    path = tmp_path / "networks" / TASK / "weights.safetensors"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, thin, thin_weights)
    return path


def options(tmp_path: Path, *more: str) -> list[str]:
    counts = ["--images", "32", "--validation", "40", "--held-out", "24"]
    return ["--networks", TASK, *counts, "--keep", str(tmp_path), "--schemes", "x86", *more]


def test_a_killed_run_goes_on_where_it_was(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked: list[tuple[str, int]] = []

    def measured(folder: Path, task: str, scheme: str, quantizer: str, seed: int) -> Row:
        asked.append((quantizer, seed))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return row(quantizer, seed)

    monkeypatch.setattr(quantizers, "measured", measured)
    monkeypatch.setattr(quantizers, "_benched", lambda *given: tmp_path)
    given = options(tmp_path, "--seeds", "2", "--quantizers", "nncf", "onnxruntime-minmax")
    assert quantizers.main(given) == 130
    assert quantizers.main([*given, "--kept", "--json"]) == 0
    assert [one["failure"] for one in json.loads(capsys.readouterr().out)] == ["", "", *["not measured yet"] * 2]
    assert quantizers.main([*given, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    order = [("nncf", 0), ("onnxruntime-minmax", 0), ("nncf", 1), ("nncf", 1), ("onnxruntime-minmax", 1)]
    assert asked == order


def test_documents_are_renewed_between_their_markers(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantizers, "rows", lambda options, place: iter([row(), row("nncf")]))
    documents = {}
    for name, markers in (("page.md", PAGE), ("brief.md", BRIEF)):
        documents[name] = tmp_path / name
        documents[name].write_text(f"# T\n{markers[0]}\nold\n{markers[1]}\nafter\n", encoding="utf-8")
    given = options(tmp_path, "--write", str(documents["page.md"]), "--brief", str(documents["brief.md"]))
    assert quantizers.main(given) == 0
    written = {name: path.read_text(encoding="utf-8") for name, path in documents.items()}
    assert all("old" not in text and text.endswith("after\n") for text in written.values())
    assert "| edgeres calibrate" in written["page.md"]
    assert "goals met" in written["brief.md"]
    assert quantizers.main(options(tmp_path, "--write", str(tmp_path / "absent.md"))) == 2


def test_seeds_draw_other_calibration_images_and_judge_on_the_same():
    task = TASKS[TASK]
    first, again, other = (task.splits(seed, 64, 200, 300) for seed in (0, 0, 1))
    assert first.calibration.hashes == again.calibration.hashes != other.calibration.hashes
    assert first.validation.hashes == other.validation.hashes
    assert first.tuning.hashes == other.tuning.hashes
    assert [len(split) for split in (first.calibration, first.held_out, first.validation)] == [64, 200, 300]
    parts = [set(split.hashes) for split in (first.calibration, first.held_out, first.tuning, first.validation)]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_a_rung_and_a_peer_meet_on_the_same_images(
    thin, thin_weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    checkpoint = tmp_path / "weights.safetensors"
    save_checkpoint(checkpoint, thin, thin_weights)
    settings = Settings(TASK, images=32, validation=40, held_out=24, seed=1)
    made = Bench(tmp_path / "seed-1")
    bench.make(made.folder, settings, checkpoint)
    checkpoint.unlink()
    assert made.settings == settings
    assert [len(made.pixels(name)) for name in ("calibration", "validation", "held_out")] == [32, 40, 24]
    for name in ("edgeres-calibrate", "onnxruntime-minmax"):
        assert contenders.main([str(made.folder), "tensorrt", name]) == 0
        assert json.loads(capsys.readouterr().out)["seconds"] > 0
        assert judge.main([str(made.folder), "tensorrt", name]) == 0
        found = json.loads(capsys.readouterr().out)
        assert 0 < Figures(**found["validation"]).kl < 0.1
        assert found["weighted"] == len(graph(thin).weighted)
        assert found["integer"] >= found["weighted"] - 1


def test_nobody_by_that_name_competes(tmp_path: Path):
    with pytest.raises(UsageError, match="no contender 'nnfc': did you mean 'nncf'"):
        contenders.main([str(tmp_path), "x86", "nnfc"])


def test_a_rung_with_fewer_seeds_than_another_is_not_judged():
    told = [goal.told for goal in goals([replace(OURS, seeds=3), FEWER, replace(PEER, seeds=3)])[:3]]
    assert all("adaround" in sentence and "reconstruct" not in sentence for sentence in told)
