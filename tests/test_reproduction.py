"""A run again from nothing: the same bytes, or which file differs and what is known of the reason."""

import json
import shutil

import pytest

from edgeres.cli import main
from edgeres.errors import UsageError
from edgeres.pipeline.reproduction import reproduction
from edgeres.pipeline.run_folder import MANIFEST, RECIPE
from edgeres.settings import sha256_file

pytestmark = pytest.mark.slow

LINE = ["compile", "resnet20", "--target", "cpu", "--crop", "8", "--resize", "8", "--until", "evaluate"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    words = [
        *LINE,
        "--set",
        "train.epochs=1",
        "--cache",
        str(folder / "cache"),
        "--out",
        str(folder / "run"),
        "--quiet",
    ]
    assert main(words) == 0
    return folder / "run"


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def edit(folder, change):
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def test_the_same_request_gives_the_same_bytes(run, tmp_path, capsys):
    before = {path.name: sha256_file(path) for path in run.iterdir() if path.is_file()}
    assert main(["reproduce", str(run / MANIFEST), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["identical"]
    assert found["files"] == dict.fromkeys((MANIFEST, RECIPE, "weights.safetensors"), "same")
    assert found["causes"] == found["altered"] == []
    assert {path.name: sha256_file(path) for path in run.iterdir() if path.is_file()} == before


def test_a_file_that_differs_is_named_with_stage_and_cause(run, made, tmp_path, capsys):
    weights = run / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")

    def older(content):
        content["versions"]["torch"] = "2.0.0"
        content["stages"][0]["sha256"] = "0" * 64
        content["files"][weights.name] = sha256_file(weights)

    edit(run, older)
    words = ["reproduce", str(run), "--cache", str(made.parent / "cache"), "--out", str(tmp_path / "again")]
    assert main(words) == 3
    said = capsys.readouterr().out
    assert "Different: 2 of 3 files" in said
    assert "first stage with another result: train" in said
    assert "versions.torch" in said
    assert "2.0.0" in said
    assert (tmp_path / "again" / "report.json").is_file()


def test_a_file_changed_after_its_run_is_told_from_one_that_came_out_differently(run, made):
    (run / RECIPE).write_text((run / RECIPE).read_text().replace("epochs: 1", "epochs: 7"))
    found = reproduction(run, made)
    assert found.altered == (RECIPE,)
    assert found.files[RECIPE] == "differs"
    assert found.files["weights.safetensors"] == "same"
    assert [(row.name, row.first, row.second) for row in found.causes] == [("train.epochs", "7", "1")]


def test_files_that_only_one_of_them_has(run, made):
    edit(run, lambda content: content["files"].update(extra="0" * 64))
    (run / "extra").write_text("x")
    (run / "weights.safetensors").unlink()
    found = reproduction(run, made)
    assert found.files["extra"] == "only before"
    assert found.files["weights.safetensors"] == "only now"
    assert not found.identical


def test_an_earlier_end_is_a_stage_that_differs(run, made):
    edit(run, lambda content: content["stages"].pop())
    assert reproduction(run, made).stage == "evaluate"


@pytest.mark.parametrize("text", ["", "[]", '{"files": {}}', '{"files": {"../run.txt": "0"}, "stages": []}'])
def test_what_is_no_manifest_is_told(run, made, text):
    (run / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match=MANIFEST):
        reproduction(run, made)


def test_a_run_does_not_overwrite_itself(run, capsys):
    assert main(["reproduce", str(run), "--out", str(run)]) == 2
    assert "is the run itself" in capsys.readouterr().err


def test_an_empty_folder_is_told(tmp_path, capsys):
    assert main(["reproduce", str(tmp_path)]) == 2
    assert "name the folder of a finished run" in capsys.readouterr().err
