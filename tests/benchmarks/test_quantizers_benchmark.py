"""Rows, means, verdicts, what is kept, and one contender of each road on a thin network."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from benchmarks import bench, command, contenders, judge, quantizers, techniques
from benchmarks.bench import Bench, Settings
from benchmarks.contenders import DEFAULT, PEERS, QUANTIZERS
from benchmarks.keep import Keep
from benchmarks.means import HEADS, Mean, Spread, means
from benchmarks.page import BRIEF, PAGE, brief, page
from benchmarks.quantizer import missing, versions
from benchmarks.row import Figures, Row
from benchmarks.tasks import TASKS, Task
from benchmarks.techniques import Ours, source_digest
from benchmarks.verdicts import goals
from edgeres.errors import EdgeresError, UsageError
from edgeres.model.graph import graph
from edgeres.model.weights import save_checkpoint
from edgeres.recovery.registry import TECHNIQUES

if TYPE_CHECKING:
    from pathlib import Path

FIGURES = Figures(float_top1=80, top1=79, changed=2.5, drop_pp=1.0, low_pp=-0.5, high_pp=2.5, kl=0.002, sqnr_db=31.26)
TASK = "resnet20-cifar10"


def row(quantizer: str = "edgeres-calibrate", seed: int = 0, scheme: str = "x86", **judged: float) -> Row:
    figures = replace(FIGURES, **judged)
    return Row(
        TASK, scheme, quantizer, seed, 1234.5, seconds=5.25, load=1.0, integer=20, weighted=21,
        held_out=replace(figures, kl=figures.kl / 2), validation=figures, images=1000,
    )  # fmt: skip


def mean(quantizer: str, **changes: object) -> Mean:
    (found,) = means([row(quantizer)])
    return replace(found, **changes)


def test_every_contender_has_a_title_of_its_own():
    titles = [quantizer.title for quantizer in QUANTIZERS.values()]
    assert len(set(titles)) == len(titles) == 1 + len(TECHNIQUES) + len(PEERS)


def test_every_package_of_a_peer_is_pinned():
    pins = (command.CHECKOUT / "benchmarks/peers.txt", command.CHECKOUT / "constraints.txt")
    pinned = {
        line.partition("==")[0].lower() for path in pins for line in path.read_text().splitlines() if "==" in line
    }
    assert {package for name in PEERS for package in QUANTIZERS[name].packages} <= pinned


def test_every_rung_of_the_ladder_competes():
    assert set(techniques.TECHNIQUES) == set(TECHNIQUES)
    assert all(f"edgeres-{technique}" in QUANTIZERS for technique in TECHNIQUES)


def test_only_contenders_with_an_answer_meet():
    found = quantizers.pairs(("tensorrt", "x86"), ("modelopt-max", "torchao-x86", "nncf"))
    assert found == (("tensorrt", "modelopt-max"), ("tensorrt", "nncf"), ("x86", "torchao-x86"), ("x86", "nncf"))


def test_means_and_spread_over_seeds_by_hand():
    drops, kls = (1.0, 2.0, 6.0), (1e-3, 2e-3, 3e-3)
    pairs = zip(drops, kls, strict=True)
    rows = [row(seed=seed, drop_pp=drop, kl=kl, low_pp=-drop) for seed, (drop, kl) in enumerate(pairs)]
    (found,) = means(rows)
    assert found.seeds == 3
    assert found.drop_pp.mean == pytest.approx(3)
    assert found.drop_pp.deviation == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    assert found.kl.mean == pytest.approx(2e-3)
    assert found.kl_held_out.mean == pytest.approx(1e-3)
    assert found.low_pp == pytest.approx(-3)
    assert found.worst_pp == 6
    assert found.images == 1000


def test_a_mean_is_over_seeds_and_over_nothing_else():
    rows = [row(), row(scheme="tensorrt"), row("nncf"), row(seed=1)]
    assert [(one.scheme, one.quantizer, one.seeds) for one in means(rows)] == [
        ("x86", "edgeres-calibrate", 2), ("tensorrt", "edgeres-calibrate", 1), ("x86", "nncf", 1),
    ]  # fmt: skip


def test_failed_seeds_leave_the_others_their_mean():
    (found,) = means([row(), Row(TASK, "x86", "edgeres-calibrate", 1, failure="killed")])
    assert (found.seeds, found.failure) == (1, "")


def test_a_mean_as_the_table_shows_it():
    assert mean("edgeres-calibrate").cells() == (
        "edgeres calibrate", "1", "1.00 ± 0.00", "2.00 ± 0.00", "31.3 dB", "2.50 % ± 0.00", "79.00 %",
        "+1.00 pp ± 0.00 [-0.50, +2.50]", "20 of 21", "5", "1,234 MiB",
    )  # fmt: skip
    assert mean("edgeres-calibrate", load=7.0).cells()[9] == "5*"


def test_a_contender_without_figures_says_why():
    (found,) = means([Row(TASK, "x86", "nncf", 0, failure="not installed: pip install nncf")])
    assert found.cells()[0] == "NNCF default: not installed: pip install nncf"
    assert len(found.cells()) == len(HEADS)


OURS = mean(DEFAULT, drop_pp=Spread(0.03, 0), worst_pp=0.1, changed=Spread(0.5, 0), kl=Spread(1e-4, 0))
PEER = mean("nncf", drop_pp=Spread(0.1, 0), changed=Spread(1.0, 0), kl=Spread(2e-4, 0))
QUICK_PEER = mean("onnxruntime-minmax", kl=Spread(1e-4, 0), changed=Spread(1.0, 0), seconds=Spread(10.5, 0))


def verdicts(*found: Mean) -> list[bool | None]:
    return [goal.met for goal in goals(found)]


def test_figures_on_the_limit_meet_every_goal():
    assert verdicts(OURS, PEER) == [True, True, True, True, True, True]


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"drop_pp": Spread(0.04, 0)}, 0),
        ({"worst_pp": 0.11}, 1),
        ({"changed": Spread(0.51, 0)}, 2),
        ({"kl": Spread(1.1e-4, 0)}, 3),
    ],
)
def test_a_figure_beyond_its_limit_misses_its_goal_alone(worse: dict[str, object], missed: int):
    met = verdicts(replace(OURS, **worse), PEER)
    assert [place for place, one in enumerate(met) if not one] == [missed]


@pytest.mark.parametrize(
    ("seconds", "kl", "met"),
    [
        (5.25, 1e-4, True),  # half of the peer's time, and the peer as near to float
        (5.26, 1e-4, False),
        (5.26, 0.9e-4, True),  # no peer is as near to float
    ],
)
def test_time_is_held_against_the_fastest_peer_that_is_as_near_to_float(seconds: float, kl: float, met: bool):
    ours = replace(OURS, kl=Spread(kl, 0), seconds=Spread(seconds, 0))
    slower = replace(QUICK_PEER, quantizer="onnxruntime-percentile", seconds=Spread(99.0, 0))
    assert goals([ours, slower, QUICK_PEER, PEER])[-1].met is met


def test_best_peer_is_the_best_of_each_figure():
    other = mean("onnxruntime-minmax", drop_pp=Spread(0.1, 0), changed=Spread(0.8, 0), kl=Spread(9e-4, 0))
    told = goals([OURS, PEER, other])
    assert not told[2].met
    assert "ONNX Runtime MinMax 0.80 %, 0.62 of it" in told[2].told
    assert told[3].met
    assert "NNCF default" in told[3].told


def test_techniques_alone_are_in_no_verdict():
    luckier = mean("edgeres-reconstruct", drop_pp=Spread(-1, 0), kl=Spread(1e-9, 0), kl_held_out=Spread(0, 0))
    assert goals([OURS, luckier, PEER]) == goals([OURS, PEER])
    assert verdicts(luckier, PEER) == [None]


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
    told = goals([OURS, replace(PEER, **peer)])[4]
    if behind is None:
        assert told.met
    else:
        assert not told.met
        assert behind in told.told


def test_more_seeds_make_kl_less_noisy():
    peer = replace(PEER, kl=Spread(5e-5, 3e-5))
    assert goals([OURS, peer])[4].met
    assert not goals([OURS, replace(peer, seeds=5)])[4].met


def test_without_peers_or_our_own_defaults_there_is_no_verdict():
    absent = replace(PEER, failure="not installed: pip install nncf")
    assert verdicts(OURS, absent) == [True, True, None, None, None, None]
    assert verdicts(PEER) == [None]


def test_the_page_has_a_table_and_verdicts_per_scheme_and_the_brief_what_was_missed():
    found = [OURS, PEER, replace(OURS, scheme="tensorrt", drop_pp=Spread(0.5, 0)), replace(PEER, scheme="tensorrt")]
    told = page(found, 512, 1024)
    assert told.count("| quantizer") == told.count("never behind any peer") == 2
    assert "validation images:\n1,000 of ResNet-20 on CIFAR-10." in told
    tensorrt, x86 = brief(found).splitlines()[::-1]
    assert "6 of 6 goals met" in x86
    assert x86.endswith("met")
    assert "edgeres default +0.500 pp, 0.470 pp too much" in tensorrt


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


SOURCE = {
    "edgeres/quant/algorithms/bias_correction.py", "edgeres/recovery/climb.py", "edgeres/model/graph.py",
    "edgeres/pipeline/stages/fold_batchnorm.py", "edgeres/pipeline/stages/quantize.py",
    "edgeres/pipeline/stages/export.py", "edgeres/onnx_graph/write.py",
}  # fmt: skip


@pytest.mark.parametrize("changed", sorted(SOURCE))
def test_the_digest_of_the_code_changes_with_each_part_of_it(tmp_path: Path, changed: str):
    for name in SOURCE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a = 1\n", encoding="utf-8")
    before = source_digest(tmp_path)
    assert source_digest(tmp_path) == before
    (tmp_path / changed).write_text("a = 2\n", encoding="utf-8")
    assert source_digest(tmp_path) != before
    (tmp_path / changed).unlink()
    with pytest.raises(EdgeresError, match="no file matches"):
        source_digest(tmp_path)


def test_a_row_of_older_code_is_found_as_such_and_of_another_network_not_at_all(tmp_path: Path):
    keep = Keep(tmp_path)
    old = {**KEY, "quantizer": DEFAULT, "edgeres": "a", "network": "n"}
    keep.put(old, row(DEFAULT))
    new = {**old, "edgeres": "b"}
    assert keep.find(new) is None
    assert keep.find_older(new) == replace(row(DEFAULT), older=True)
    assert keep.find_older({**new, "network": "m"}) is None
    assert keep.find_older({**new, "seed": 1}) is None


def test_the_last_row_of_older_code_is_shown(tmp_path: Path):
    keep = Keep(tmp_path)
    for place, code in enumerate("cab"):
        keep.put({**KEY, "edgeres": code}, row("nncf", kl=1e-3 * place))
        (path,) = [one for one in (tmp_path / "rows").iterdir() if f'"edgeres": "{code}"' in one.read_text()]
        os.utime(path, (place, place))
    found = keep.find_older({**KEY, "edgeres": "d"})
    assert found is not None
    assert found.validation is not None
    assert found.validation.kl == 2e-3


def test_the_table_marks_what_is_of_older_code():
    (ours,) = means([replace(row(DEFAULT), older=True), row(DEFAULT, seed=1)])
    (peer,) = means([replace(row("nncf"), older=True)])
    assert ours.cells()[0] == "edgeres default (older code: 1 of 2)"
    assert peer.cells()[0] == "NNCF default (older packages: 1 of 1)"


def test_absent_packages_are_named_with_their_pip_line():
    class Absent(Ours):
        packages = ("numpy", "edgeres-no-such-package")

    quantizer = Absent("calibrate")
    assert missing(quantizer) == "no edgeres-no-such-package here: pip install --no-deps -r benchmarks/peers.txt"
    assert list(versions(quantizer)) == ["numpy"]
    assert missing(QUANTIZERS["edgeres-calibrate"]) is None


@pytest.fixture
def task(thin, thin_weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The CIFAR-10 task with a thin network and noise for images: no word about it is taken at its accuracy."""
    checkpoint = tmp_path / "shared" / "thin.safetensors"
    checkpoint.parent.mkdir()
    save_checkpoint(checkpoint, thin, thin_weights)
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 6)):
        for label in range(10):
            folder = tmp_path / "shared" / "images" / part / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    made = replace(TASKS[TASK], weights=str(checkpoint), images=str(tmp_path / "shared" / "images"))
    monkeypatch.setitem(TASKS, TASK, made)
    monkeypatch.setattr(bench, "preset", lambda name: thin)
    return made


def options(tmp_path: Path, *more: str) -> list[str]:
    counts = ["--images", "32", "--validation", "40", "--held-out", "24"]
    return ["--networks", TASK, *counts, "--keep", str(tmp_path), "--schemes", "x86", *more]


def test_a_killed_run_goes_on_where_it_was(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


def test_documents_are_renewed_between_their_markers(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantizers, "rows", lambda options, place: iter([row(), row("nncf")]))
    documents = {}
    for name, markers in (("page.md", PAGE), ("brief.md", BRIEF)):
        documents[name] = tmp_path / name
        documents[name].write_text(f"# T\n{markers[0]}\nSTALE\n{markers[1]}\nafter\n", encoding="utf-8")
    given = options(tmp_path, "--write", str(documents["page.md"]), "--brief", str(documents["brief.md"]))
    assert quantizers.main(given) == 0
    written = {name: path.read_text(encoding="utf-8") for name, path in documents.items()}
    assert all("STALE" not in text and text.endswith("after\n") for text in written.values())
    assert "| edgeres calibrate" in written["page.md"]
    assert "goals met" in written["brief.md"]
    assert quantizers.main(options(tmp_path, "--write", str(tmp_path / "absent.md"))) == 2


def test_older_rows_are_measured_again_on_request_alone(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(quantizers, "measured", lambda *given: row(given[3], given[4]))
    monkeypatch.setattr(quantizers, "_benched", lambda *given: tmp_path)
    given = options(tmp_path, "--quantizers", DEFAULT, "--json")
    shown = []
    for code, more in (("a", []), ("a", []), ("b", []), ("b", ["--renew"]), ("b", [])):
        monkeypatch.setattr(quantizers, "source_digest", lambda code=code: code)
        assert quantizers.main([*given, *more]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        shown.append((found["code"], found["older"]))
    assert shown == [("a", False), ("a", False), ("a", True), ("b", False), ("b", False)]


def test_seeds_draw_other_calibration_images_and_judge_on_the_same(task: Task):
    first, again, other = (task.splits(seed, 64, 200, None) for seed in (0, 0, 1))
    assert first.calibration.hashes == again.calibration.hashes != other.calibration.hashes
    assert first.validation.hashes == other.validation.hashes
    assert first.tuning.hashes == other.tuning.hashes
    assert [len(split) for split in (first.calibration, first.held_out, first.validation)] == [64, 200, 60]
    parts = [set(split.hashes) for split in (first.calibration, first.held_out, first.tuning, first.validation)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert len(task.splits(0, 64, 200, 20).validation) == 20


def test_defaults_and_a_peer_meet_on_the_same_images(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = Settings(TASK, images=32, validation=40, held_out=24, seed=1)
    made = Bench(tmp_path / "seed-1")
    bench.make(made.folder, settings, task.checkpoint)
    task.checkpoint.unlink()
    assert made.settings == settings
    assert [len(made.pixels(name)) for name in ("calibration", "validation", "held_out")] == [32, 40, 24]
    weighted = len(graph(made.network()[0]).weighted)
    for name in (DEFAULT, "onnxruntime-minmax"):
        assert contenders.main([str(made.folder), "tensorrt", name]) == 0
        assert json.loads(capsys.readouterr().out)["seconds"] > 0
        assert judge.main([str(made.folder), "tensorrt", name]) == 0
        found = json.loads(capsys.readouterr().out)
        assert 0 < Figures(**found["validation"]).kl < 0.1
        assert found["images"] == 40
        assert found["weighted"] == weighted
        assert found["integer"] >= weighted - 1


def test_nobody_by_that_name_competes(tmp_path: Path):
    with pytest.raises(UsageError, match="no contender 'nnfc': did you mean 'nncf'"):
        contenders.main([str(tmp_path), "x86", "nnfc"])
