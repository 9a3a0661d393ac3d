"""``edgeres calibration`` and ``--scales``, end to end on a small network."""

import json
import shutil

import pytest

from edgeres.cli import main
from edgeres.quant.calibration_table import read_table
from edgeres.settings import sha256_file

pytestmark = pytest.mark.slow

SMALL = ["--crop", "8", "--resize", "8", "--set", "train.epochs=1", "--set", "recover.epochs=1"]
PLAIN = ["--set", "quantize.technique=calibrate", "--set", "quantize.calibrator=mse", "--budget", "accuracy_drop_pp=90"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("scales")


@pytest.fixture(scope="module")
def compiled(place):
    """Runs ``edgeres compile`` once per name."""
    done = {}

    def run(name, *more, target="cpu"):
        if name not in done:
            words = ["compile", "resnet20", "--target", target, *SMALL, *PLAIN, *more]
            code = main([*words, "--out", str(place / name), "--cache", str(place / "cache"), "--quiet"])
            done[name] = code, place / name
        return done[name]

    return run


def saved(place, folder):
    """The first run's table, kept in a file."""
    file = place / "kept.json"
    assert main(["calibration", "save", str(folder), str(file)]) == 0
    return file


def test_a_file_that_holds_something_else_is_overwritten_by_force_alone(compiled, place, tmp_path, capsys):
    _, folder = compiled("first")
    file = tmp_path / "table.json"
    save = ["calibration", "save", str(folder), str(file)]
    assert main(save) == main(save) == 0  # the same table again changes nothing
    file.write_text("a table of another run")
    assert main(save) == 2
    assert file.read_text() == "a table of another run"
    said = capsys.readouterr().err
    assert f"{file} is there already and holds something else" in said
    assert "--force" in said
    assert main([*save, "--force"]) == 0
    assert file.read_bytes() == (folder / "calibration.json").read_bytes()
    (tmp_path / "folder").mkdir()
    assert main(["calibration", "save", str(folder), str(tmp_path / "folder")]) == 2


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_kept_table_is_the_published_one(compiled, place, capsys):
    code, folder = compiled("first")
    assert code == 0
    file = saved(place, folder)
    assert file.read_bytes() == (folder / "calibration.json").read_bytes()
    assert read_table(file).digest in capsys.readouterr().out
    assert report(folder)["provenance"]["scales"] is None


def test_reused_scales_give_the_same_network_without_observing(compiled, place, monkeypatch):
    _, folder = compiled("first")
    file = saved(place, folder)

    def observed(*_arguments, **_options):
        raise AssertionError("images were observed")

    monkeypatch.setattr("edgeres.recovery.context.observe", observed)
    code, again = compiled("again", "--scales", str(file))
    assert code == 0
    for name in ("model.onnx", "model.float.onnx", "calibration.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    told = report(again)
    assert told["provenance"]["scales"] == read_table(file).digest
    assert any("no image was observed" in note for row in told["stages"] for note in row["notes"])
    cached = {row["stage"]: row["cached"] for row in told["timings"]["stages"]}
    assert not cached["quantize"]  # another key than the run that observed
    assert cached["train"]
    assert json.loads((again / "manifest.json").read_text())["scales"] == read_table(file).digest


def test_scales_from_other_images_are_used_with_a_note(compiled, place):
    _, folder = compiled("first")
    notes = [
        note
        for row in report(compiled("again", "--scales", str(saved(place, folder)))[1])["stages"]
        for note in row["notes"]
    ]
    assert not any("other images" in note for note in notes)
    data = json.loads(saved(place, folder).read_text())
    data["table"]["data"] = "0" * 64
    elsewhere = place / "elsewhere.json"
    elsewhere.write_text(json.dumps(data))
    code, other = compiled("elsewhere", "--scales", str(elsewhere))
    assert code == 0
    assert (other / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert any(
        "those scales come from other images" in note for row in report(other)["stages"] for note in row["notes"]
    )


def test_other_scales_give_another_network_from_another_cache_entry(compiled, place):
    _, folder = compiled("first")
    data = json.loads(saved(place, folder).read_text())
    data["table"]["activations"]["image"]["scale"] = [2 * data["table"]["activations"]["image"]["scale"][0]]
    changed = place / "changed.json"
    changed.write_text(json.dumps(data))
    code, other = compiled("other", "--scales", str(changed))
    assert code == 0
    assert sha256_file(other / "model.onnx") != sha256_file(folder / "model.onnx")
    assert main(["calibration", "diff", str(folder), str(other), "--json"]) == 3


def test_difference_is_listed_scale_by_scale(compiled, place, capsys):
    _, folder = compiled("first")
    _, other = compiled("other")
    capsys.readouterr()
    assert main(["calibration", "diff", str(folder), str(other), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert not found["equal"]
    assert [row["tensor"] for row in found["scales"]] == ["image"]
    assert found["scales"][0]["bits"] == 1
    assert main(["calibration", "diff", str(folder), str(other)]) == 3
    assert "+100 %" in capsys.readouterr().out
    assert main(["calibration", "diff", str(folder), str(saved(place, folder))]) == 0
    assert "0 of" in capsys.readouterr().out


def test_another_target_s_scheme_is_refused_before_it_ships(compiled, place, capsys):
    file = saved(place, compiled("first")[1])
    code, folder = compiled("refused", "--scales", str(file), target="jetson")
    assert code == 2
    assert "scheme.signed was False, is True" in report(folder)["error"]["what"]
    assert "leave --scales out" in report(folder)["error"]["hint"]
    assert not (folder / "model.onnx").exists()


def test_a_network_trained_otherwise_is_refused(compiled, place):
    file = saved(place, compiled("first")[1])
    code, folder = compiled("retrained", "--scales", str(file), "--set", "recover.epochs=2")
    assert code == 2
    assert "they are for weights" in report(folder)["error"]["what"]


@pytest.mark.parametrize("change", ["quantize.technique=equalization", "quantize.quantizer=nncf"])
def test_what_calibrates_anew_is_refused_beside_given_scales(compiled, place, change):
    file = saved(place, compiled("first")[1])
    code, folder = compiled(change, "--scales", str(file), "--set", change)
    assert code == 2
    assert "calibrates anew beside --scales" in report(folder)["error"]["what"]


def test_later_technique_may_build_on_given_scales(compiled, place):
    file = saved(place, compiled("first")[1])
    code, folder = compiled("corrected", "--scales", str(file), "--set", "quantize.technique=bias_correction")
    assert code == 0
    assert read_table(folder).table == read_table(file).table
    assert (folder / "model.onnx").read_bytes() != (compiled("first")[1] / "model.onnx").read_bytes()


def test_a_recipe_that_takes_no_scales_and_a_missing_file_are_refused(place, capsys):
    words = ["compile", "resnet20", "--target", "cpu", *SMALL, "--out", str(place / "none"), "--quiet"]
    assert main([*words, "--scales", str(place / "nothing.json")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main([*words, "--until", "evaluate", "--scales", str(place / "kept.json")]) == 2
    assert "has no stage that takes --scales" in capsys.readouterr().err
    assert main(["calibration", "save", str(place), str(place / "x.json")]) == 2
    shutil.rmtree(place / "none", ignore_errors=True)
