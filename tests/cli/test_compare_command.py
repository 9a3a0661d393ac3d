import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import edgeres
from edgeres.cli import main
from edgeres.gate import predictions
from edgeres.report import report_files
from edgeres.runs.run import Device, FileRow, Run
from edgeres.settings import sha256_file

DEVICE = Device(name="cpu", title="CPU", backend="onnxruntime", runtime="ONNX Runtime")
HASHES = [f"{index:064x}" for index in range(1, 6)]


def place(folder, deployed=None, images=HASHES):
    folder.mkdir()
    run = Run(edgeres="0", command="edgeres", model="resnet20", target=DEVICE, until="load")
    if deployed is not None:
        answers = predictions.Answers.of("d", images, [0, 1, 0, 1, 0], [0, 1, 0, 1, 0], deployed)
        path = folder / predictions.NAME
        path.write_bytes(predictions.encode(answers))
        run = replace(run, files={predictions.NAME: FileRow(sha256=sha256_file(path), size=path.stat().st_size)})
    report_files.write(run, folder)
    return str(folder)


def compared(capsys, *words):
    assert main(["compare", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_answers_are_paired_where_both_runs_have_them(tmp_path, capsys):
    a, b = place(tmp_path / "a", [0, 1, 0, 0, 1]), place(tmp_path / "b", [1, 0, 0, 1, 1])
    assert compared(capsys, a, b)["paired"] == {"n": 5, "b": 2, "c": 1}
    assert main(["compare", a, b + "/report.json"]) == 0
    said = capsys.readouterr().out
    assert "paired on 5 images: 2 right in the first run alone, 1 in the second alone" in said
    assert "same inputs, settings and versions" in said


def test_without_answers_the_reports_compare_alone(tmp_path, capsys):
    a, b = place(tmp_path / "a"), place(tmp_path / "b", [0, 1, 0, 0, 1])
    found = compared(capsys, a, b)
    assert found["paired"] is None
    assert "has no answers to judge" in found["notes"][0]


def test_answers_on_other_images_are_not_paired(tmp_path, capsys):
    a = place(tmp_path / "a", [0, 1, 0, 0, 1])
    b = place(tmp_path / "b", [0, 1, 0, 0, 1], [f"{index:064d}"[::-1] for index in range(11, 16)])
    assert "only 0 of 5 images are in both runs" in compared(capsys, a, b)["notes"][0]


def test_altered_answers_are_not_paired(tmp_path, capsys):
    a, b = place(tmp_path / "a", [0, 1, 0, 0, 1]), place(tmp_path / "b", [0, 1, 0, 0, 1])
    path = tmp_path / "b" / predictions.NAME
    path.write_text(path.read_text().replace("0", "1"))
    assert "is not the file that its run reported" in compared(capsys, a, b)["notes"][0]


def test_a_folder_without_a_report_is_told(tmp_path, capsys):
    assert main(["compare", place(tmp_path / "a"), str(tmp_path)]) == 2
    assert "name the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_no_runtime_is_loaded(tmp_path, json_too):
    words = ["compare", place(tmp_path / "a"), place(tmp_path / "b"), *json_too]
    code = f"import sys; from edgeres.cli import main; main({words!r}); print('torch' in sys.modules, file=sys.stderr)"
    env = {**os.environ, "PYTHONPATH": str(Path(edgeres.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"


def test_a_page_shows_both_runs_in_the_style_of_their_reports(tmp_path, capsys):
    from xml.etree import ElementTree

    a, b = place(tmp_path / "a", [0, 1, 0, 0, 1]), place(tmp_path / "b", [1, 0, 0, 1, 1])
    page = tmp_path / "both <&>.html"
    assert main(["compare", a, b, "--html", str(page)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"page: {page}"
    text = page.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    everything = " ".join(root.itertext())
    for words in (a, b, "top-1 deployed", "Settings that differ", "paired on 5 images"):
        assert words in everything
    main(["compare", a, b, "--html", str(page)])
    assert page.read_text(encoding="utf-8") == text, "the same runs give the same page"
    assert main(["compare", a, b, "--html", str(page / "x.html")]) == 1
