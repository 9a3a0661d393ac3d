"""What a new user meets: lists without a wait, hints that fit, errors in one form."""

import json
import subprocess
import sys
import zipfile
from dataclasses import fields

import pytest
import torch
from test_console import environment

from edgeres.cli import main
from edgeres.pipeline.setting_keys import setting_keys
from edgeres.pipeline.shipped_recipes import recipe_names, stage_names
from edgeres.targets.target import Budget, families, find_target, target_hint, targets

HEAVY = ("torch", "onnx", "nncf", "onnxruntime", "scipy", "sklearn")
WITHOUT = f"""
import sys
from edgeres.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as left:
    code = left.code
print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)
"""


def in_a_process(tmp_path, *words):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        env=environment(),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    *said, last = done.stderr.splitlines()
    return done.stdout, said, last


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 0),
        (["--help"], 0),
        (["compile", "--help"], 0),
        (["recipes"], 0),
        (["compile", "resnet18", "--target", "jetsn"], 2),
        (["compile", "resnet81", "--target", "jetson"], 2),
        (["compile", "resnet18", "--target", "cpu", "--weights", "gone.pt"], 2),
        (["train", "resnet81"], 2),
        (["compil"], 2),
    ],
)
def test_lists_help_and_misspelt_names_load_no_runtime(tmp_path, words, code):
    out, said, last = in_a_process(tmp_path, *words)
    assert last == f"[] {code}"
    assert (len(said), bool(out)) == ((1, False) if code else (0, True))
    assert list(tmp_path.iterdir()) == []


def test_no_arguments_print_help(capsys):
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: edgeres")
    assert "compile" in said.out
    assert said.err == ""


def test_help_names_every_budget_and_where_the_settings_are(capsys):
    with pytest.raises(SystemExit):
        main(["compile", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(Budget):
        assert field.name in text
    assert "edgeres recipes --keys" in text


def test_recipes_are_listed_as_their_files_have_them():
    from edgeres.pipeline.recipe import load_recipe

    for name in recipe_names():
        assert stage_names(name) == tuple(stage.name for stage in load_recipe(name).stages)


def test_every_setting_of_every_stage_is_listed_with_a_default_that_it_takes():
    from edgeres.pipeline.recipe import STAGES

    keys = setting_keys()
    assert {key.name.partition(".")[0] for key in keys} == {name for name, stage in STAGES.items() if fields(stage)}
    for key in keys:
        stage, _, name = key.name.partition(".")
        if "." not in name:
            assert STAGES[stage](**{name: key.default}) == STAGES[stage]()


def test_a_setting_tells_type_default_and_choices(capsys):
    assert main(["recipes", "--keys", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    calibrator = rows["quantize.calibrator"]
    assert calibrator["default"] == "auto"
    assert {"minmax", "entropy", "mse"} < set(calibrator["choices"])
    assert rows["prune.macs"]["type"] == "number > 0, <= 1"
    assert rows["train.epochs"] == {
        "name": "train.epochs", "type": "whole number >= 1 or none", "default": None, "choices": [], "about": ""
    }  # fmt: skip
    assert rows["recover.augment.flip"]["default"] is False, "the stage's default, not the class's"
    assert main(["recipes", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows)
    assert any(line.startswith("prune.macs=0.65  (number > 0, <= 1)  Largest share of the MACs") for line in lines)


def test_every_suggested_target_exists():
    for family in families():
        for name in family.targets:
            assert find_target(name).name


@pytest.mark.parametrize(
    ("word", "wanted", "never"),
    [
        ("iphone", "Core ML and Apple's devices are not supported", "phone'"),
        ("iPhone15", "not supported", "did you mean"),
        ("ios", "not supported", "did you mean"),
        ("gpu", "rtx, ", "cpu"),
        ("GPU", "a GPU is named by its model", "cpu"),
        ("tpu", "the Edge TPU is not supported", "did you mean"),
        ("npu", "w4a8", "did you mean"),
        ("cortex-m4", "microcontrollers are not supported", "did you mean"),
        ("orin", "orin-nx, ", "did you mean"),
        ("jetsn", "did you mean 'jetson'?", "take one"),
        ("rasberry-pi", "did you mean 'raspberry-pi'?", "take one"),
        ("raspberry_pi", "did you mean 'raspberry-pi'?", "take one"),
        ("h200", "the nearest there is: 'h100'", "did you mean"),
        ("xyzzy", "'edgeres targets' lists them", "did you mean"),
    ],
)
def test_an_unknown_target_is_answered_with_what_there_is_for_it(word, wanted, never):
    known = {alias for target in targets().values() for alias in (target.name, *target.aliases)}
    hint = target_hint(word, known)
    assert wanted in hint
    assert never not in hint


def refused(capsys, *words):
    """The one line on standard error with which a command ends."""
    try:
        code = main([*words])
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("edgeres: ")
    return line


@pytest.mark.parametrize(
    "words",
    [
        ["compil"],
        ["compile"],
        ["compile", "resnet18", "--target", "nosuch"],
        ["compile", "resnet18", "--target", "cpu", "--variant", "int4"],
        ["lint", "gone.onnx", "--target", "cpu"],
        ["gate", "gone"],
        ["compare", "gone", "gone"],
        ["report", "gone"],
        ["macs", "resnet81"],
        ["predict", "resnet18", "--target", "nosuch"],
        ["verify", "gone"],
        ["parity", "gone"],
        ["bench", "gone"],
        ["reproduce", "gone"],
        ["sensitivity", "gone"],
        ["measured", "gone", "gone.json"],
    ],
)
def test_every_command_refuses_in_one_line_on_standard_error(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    refused(capsys, *words)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("resnet50-0676ba61.pth", "--weights: edgeres compile resnet50 --weights resnet50-0676ba61.pth"),
        ("mine.safetensors", "edgeres compile resnet18 --weights mine.safetensors"),
        ("model.engine", "a TensorRT engine, which cannot be read back"),
        ("model.plan", "a TensorRT engine, which cannot be read back"),
        ("model.tflite", "a LiteRT model, which cannot be read back"),
        ("model.tflite", "python -m tf2onnx.convert --tflite model.tflite --output model.onnx"),
        ("model.keras", "python -m tf2onnx.convert --saved-model model --output model.onnx"),
        ("model.pdmodel", "paddle2onnx --model_dir . --model_filename model.pdmodel"),
        ("model.params", "mxnet.onnx.export_model"),
        ("model.torchscript", "torch.jit.load('model.torchscript')"),
        ("model.mlmodel", "a Core ML model, which cannot be read back"),
        ("mine.yaml", "--recipe mine.yaml"),
        ("IMAGENET1K_V2", "pass it with --weights"),
        ("mobilenet_v2", "any other classifier is given as an .onnx file"),
    ],
)
@pytest.mark.parametrize("command", ["compile", "train"])
def test_a_file_given_as_model_is_recognised(capsys, tmp_path, monkeypatch, command, name, wanted):
    monkeypatch.chdir(tmp_path)
    where = ["--target", "cpu"] if command == "compile" else []
    line = refused(capsys, command, name, *where)
    assert wanted in line
    assert "resnext101" not in line, "no list of every preset"


def test_a_folder_given_as_model_is_recognised(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, inside in {"run": "request.json", "trained": "weights.safetensors", "hub": "model.safetensors"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / inside).write_text("{}", encoding="utf-8")
    (tmp_path / "trained" / "report.json").write_text("{}", encoding="utf-8")
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "other").mkdir()

    def message(name):
        return refused(capsys, "compile", name, "--target", "cpu")

    assert "run is the folder of a run, not a MODEL: edgeres quantize run" in message("run")
    assert "--weights trained/weights.safetensors" in message("trained")
    assert "--weights hub/model.safetensors" in message("hub")
    assert "--data images" in message("images")
    assert "'edgeres models' lists them" in message("other")


def test_what_is_no_weights_file_is_recognised(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.onnx").write_bytes(b"")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors").write_bytes(b"")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "lfs.pth").write_text(pointer, encoding="utf-8")
    (tmp_path / "lfs.onnx").write_text(pointer, encoding="utf-8")

    def message(*words):
        return refused(capsys, "compile", *words, "--target", "cpu", "--data", "d", "--cache", "c", "--quiet")

    assert "edgeres compile x.onnx --target" in message("resnet18", "--weights", "x.onnx")
    (tmp_path / "hub" / "model.safetensors").rename(tmp_path / "hub" / "a.safetensors")
    (tmp_path / "hub" / "b.pth").write_bytes(b"")
    assert "name one: --weights hub/a.safetensors" in message("resnet18", "--weights", "hub")
    assert "lfs.pth is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'" in message(
        "resnet18", "--weights", "lfs.pth"
    )
    assert "lfs.onnx is a Git LFS pointer" in message("lfs.onnx")


def test_a_torchscript_archive_is_refused_without_the_warning_of_torch(tmp_path, recwarn):
    from edgeres.errors import ModelError
    from edgeres.model.weights import read_file

    place = tmp_path / "program.pt"
    torch.jit.script(torch.nn.Conv2d(3, 4, 3)).save(str(place))
    assert any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(place).namelist())
    recwarn.clear()
    with pytest.raises(ModelError, match="is a TorchScript program, not weights"):
        read_file(place)
    assert [str(one.message) for one in recwarn if "TorchScript" in str(one.message)] == []
    plain = tmp_path / "plain.pt"
    torch.save({"conv.weight": torch.zeros(2, 2, 1, 1)}, plain)
    assert set(read_file(plain).tensors) == {"conv.weight"}
