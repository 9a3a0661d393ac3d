"""Bad input is normal input: one clear line (what, where, the way out), the right exit code, nothing half-written."""

import os
import pickle
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from random_weights import random_weights
from safetensors.numpy import save_file

from edgeres.cli import main
from edgeres.data.dataset import open_dataset
from edgeres.model.families import cifar

CLASSES = ("ant", "bee")


def folder_of_images(root, per_class=40, size=12, seed=0):
    """``train`` and ``val`` of distinct random images."""
    random = np.random.default_rng(seed)
    for split, count in (("train", per_class), ("val", per_class // 4)):
        for name in CLASSES:
            place = root / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder_of_images(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture
def say(tmp_path, capsys):
    """Runs a command; returns its exit code and the one line it said."""

    def run(*arguments):
        out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--quiet"]
        code = main(["compile", *arguments, *out])
        printed = capsys.readouterr()
        text = printed.err.strip() or printed.out.strip()
        assert "Traceback" not in text
        assert not (tmp_path / "run" / "model.onnx").exists()
        return code, text

    return run


def thin_cifar(classes=2):
    from dataclasses import replace

    return replace(cifar(20), classes=classes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet81", "--target", "cpu"], ["unknown model 'resnet81'", "did you mean 'resnet18'"]),
        (["resnet18", "--target", "jetsen"], ["unknown target 'jetsen'", "did you mean 'jetson'"]),
        (["resnet18", "--target", "cpu", "--recipe", "smaple"], ["unknown recipe", "did you mean 'sample'"]),
        (["resnet18", "--target", "cpu", "--set", "prune.mcas=0.5"], ["unknown key", "did you mean 'macs'"]),
        (["resnet18", "--target", "cpu", "--set", "purne.macs=0.5"], ["no stage 'purne'", "did you mean 'prune'"]),
        (["resnet18", "--target", "cpu", "--set", "prune"], ["stage.key=value"]),
        (["resnet18", "--target", "cpu", "--until", "exprot"], ["no stage 'exprot'", "did you mean 'export'"]),
        (["resnet18", "--target", "cpu", "--allow", "everything"], ["everything"]),
        (["resnet18", "--target", "cpu", "--weights", "gone.pt"], ["no weights file gone.pt"]),
        (["gone.onnx", "--target", "cpu"], ["no model file gone.onnx"]),
        (["resnet18", "--target", "cpu", "--data", "/nowhere"], ["/nowhere", "not there"]),
        (["resnet18", "--target", "cpu", "--calibration", "3"], ["calibration"]),
        (["resnet18", "--target", "cpu", "--budget", "latency=5"], ["latency"]),
        (["resnet18", "--target", "JETSON-ORIN-NANO"], ["did you mean 'jetson-orin-nano'"]),
        (["resnet18", "--target", "cpu", "--until", "lode"], ["known: build, evaluate, export"]),
        (["resnet18", "--target", "cpu", "--recipe", "int8"], ["loads weights, and none were given", "--weights"]),
        (["MODEL.ONNX", "--target", "cpu"], ["no model file MODEL.ONNX"]),
    ],
)
def test_what_was_misspelt_is_named_with_its_nearest_name(say, arguments, words):
    code, text = say(*arguments)
    assert code == 2
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--crop", "0"], "crop: '0' should be at least 1 pixel"),
        (["--crop", "8000"], "resize: 9143 should be at most 8192 pixels"),
        (["--resize", "-1"], "resize: '-1' should be"),
        (["--std", "0,1,1"], "std.0: 0.0 should be greater than 0"),
        (["--mean", "1,2,nan"], "mean.2: nan should be a finite number"),
        (["--seed", "-1"], "seed: -1 should be"),
        (["--seed", "99999999999999999999999"], "seed: 99999999999999999999999 should be"),
        (["--calibration", "-5"], "calibration"),
        (["--budget", "macs_g=nan"], "budget.macs_g: nan should be a finite number"),
        (["--budget", "macs_g=inf"], "budget.macs_g: inf should be a finite number"),
        (["--budget", "latency_p50_ms=-3"], "budget: latency_p50_ms: -3.0 should be greater than 0"),
        (["--budget", "size_mib=0"], "budget: size_mib: 0.0 should be greater than 0"),
        (["--budget", "accuracy_drop_pp=-1"], "budget: accuracy_drop_pp: -1.0 should be greater than or equal to 0"),
        (
            ["--budget", "latency_p50_us=3"],
            "'latency_p50_us': known, each with its unit at its end: accuracy_drop_pp, ",
        ),
        (["--set", "quantize.technique=foo"], "quantize: technique: 'foo' is not one of 'auto', 'calibrate', "),
        (["--set", "quantize.skip=[foo]"], "quantize: skip.0: 'foo' is not one of 'calibrate', "),
        (["--set", "prune.importance=taylor"], "prune: importance: 'taylor' is not one of 'fisher', 'l2'"),
        (["--set", "prune.macs=2"], "prune: macs: 2 should be less than or equal to 1"),
        (["--set", "prune.macs=["], "is not YAML"),
        (["--set", "prune.macs.x=1"], "'prune.macs.x=1': macs is one value"),
        (["--set", f"prune.macs={'[' * 5000}"], "nested too deeply"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(say, arguments, words):
    code, text = say("resnet20", "--target", "cpu", *arguments)
    assert code == 2
    assert words in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- nothing", "unknown stage 'nothing'"),
        ("- prune: {macs: much}", "macs"),
        (
            "- load\n- verify",
            "verify needs a built engine or bundle, and behind load there is a network with its weights",
        ),
        ("- load\n- verify", "put '- build' before it"),
        ("- export", "export needs a network with its weights, and nothing is there at the start: put '- load' or"),
        ("- train\n- export\n- quantize\n- build", "put '- quantize' before '- export'"),
        ("- train\n- evaluate\n- load", "put '- load' first, or leave it out"),
        ("- load_onnx\n- quantize", "starts from an ONNX file, not from resnet20"),
        ("- load_onnx\n- prune", "start with '- load' or '- train' instead of '- load_onnx'"),
        ("- train\n- export\n- build\n- build", "leave the second build out"),
        ("- train\n- recover", "recover needs prune before it: put '- prune' before it"),
        ("- train\n- export\n- build\n- verify", "verify needs evaluate or load_onnx before it: put '- evaluate'"),
        ("- train\n- quantize\n- prune", "prune works on a float network, and quantize comes before it: put '- prune'"),
        ("prune: {macs: 0.5}", "a recipe is a list of stages"),
        ("- [", "is not YAML"),
        ("", "a recipe is a list of stages"),
        ("- !!python/object/apply:os.system ['touch pwned']", "is not YAML"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_any_work(say, tmp_path, text, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    code, said = say("resnet20", "--target", "cpu", "--recipe", str(tmp_path / "mine.yaml"))
    assert code == 2
    assert words in said
    assert not (tmp_path / "pwned").exists()


def test_a_recipe_that_is_no_text_is_refused(say, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe- load")
    code, said = say("resnet20", "--target", "cpu", "--recipe", str(tmp_path / "mine.yaml"))
    assert code == 2
    assert "no UTF-8" in said


class Evil:
    def __reduce__(self):
        return (exec, ("open('pwned', 'w').close()",))


def damaged(path, kind):
    """A weights file with one thing wrong."""
    arrays = dict(random_weights(thin_cifar()))
    if kind == "nan":
        arrays["layer1.0.conv1.weight"] = arrays["layer1.0.conv1.weight"] * np.float32("nan")
    if kind == "shape":
        arrays["layer2.0.conv2.weight"] = arrays["layer2.0.conv2.weight"][:, :5]
    if kind == "missing":
        del arrays["layer1.0.conv2.weight"]
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    return path


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("nan", "layer1.0.conv1.weight"),
        ("shape", "layer2.0.conv2"),
        ("missing", "layer1.0"),
        ("truncated", "weights.safetensors"),
    ],
)
def test_damaged_weights_are_refused_by_name(say, tmp_path, images, kind, word):
    path = damaged(tmp_path / "weights.safetensors", kind)
    code, text = say("resnet20", "--target", "cpu", "--weights", str(path), "--data", str(images))
    assert code == 2
    assert word in text


def test_a_pickle_with_code_and_no_weights_is_refused_and_does_not_run(say, tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "older.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "older.pth"):
        code, text = say("resnet20", "--target", "cpu", "--weights", str(tmp_path / name), "--data", str(images))
        assert code == 2
        assert name in text
        assert "state_dict()" in text
    assert not (tmp_path / "pwned").exists()


def test_weights_need_data(say, tmp_path):
    path = damaged(tmp_path / "weights.safetensors", "none")
    code, text = say("resnet20", "--target", "cpu", "--weights", str(path))
    assert code == 2
    assert "--data DIR" in text


def test_a_head_of_another_width_than_the_data_is_refused(say, tmp_path, images):
    arrays = dict(random_weights(thin_cifar(classes=7)))
    save_file(arrays, tmp_path / "seven.safetensors")
    code, text = say(
        "resnet20", "--target", "cpu", "--weights", str(tmp_path / "seven.safetensors"), "--data", str(images)
    )
    assert code == 2
    assert "the data has 2 classes, the network's head has 7" in text


def test_an_empty_folder_and_a_corrupt_image_are_named(say, tmp_path, images):
    (tmp_path / "empty").mkdir()
    code, text = say("resnet20", "--target", "cpu", "--data", str(tmp_path / "empty"))
    assert code == 2
    assert "empty" in text
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    broken = copy / "val" / "bee" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    code, text = say("resnet20", "--target", "cpu", "--data", str(copy))
    assert code == 2
    assert "3.png" in text


def test_calibration_images_that_also_validate_are_refused(say, tmp_path, images):
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    shutil.copytree(images / "val", copy / "calibration")
    code, text = say("resnet20", "--target", "cpu", "--data", str(copy))
    assert code == 2
    assert "validation" in text
    assert "--allow overlap" in text


def test_too_few_calibration_images_are_refused(say, tmp_path):
    few = folder_of_images(tmp_path / "few", per_class=8)
    code, text = say("resnet20", "--target", "cpu", "--data", str(few))
    assert code == 2
    assert "calibration" in text


def graph_with(nodes, constants=()):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "g", [image], [logits], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def foreign(path, kind):
    """An ONNX file with one thing wrong."""
    weight = numpy_helper.from_array(np.zeros((192, 2), np.float32), "w")
    flatten, product = helper.make_node("Flatten", ["image"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["y"])
    if kind == "cycle":
        nodes = [
            helper.make_node("Add", ["b", "image"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            flatten,
            product,
        ]
        onnx.save(graph_with(nodes, [weight]), path)
    elif kind == "unknown op":
        onnx.save(graph_with([helper.make_node("Frobnicate", ["image"], ["y"])]), path)
    elif kind == "garbage":
        path.write_bytes(b"\x08\x08\x12garbage that is no model" * 9)
    else:
        outside = path.parent.parent / "outside.bin"
        outside.write_bytes(b"\0" * 192 * 2 * 4)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", "../outside.bin"
        path.write_bytes(graph_with([flatten, product], [weight]).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("kind", "word"),
    [("cycle", ""), ("unknown op", "Frobnicate"), ("garbage", "model.onnx"), ("external data", "outside.bin")],
)
def test_a_foreign_graph_that_is_not_safe_or_not_sound_is_refused(say, tmp_path, images, kind, word):
    (tmp_path / "inside").mkdir()
    path = foreign(tmp_path / "inside" / "model.onnx", kind)
    code, text = say(str(path), "--target", "cpu", "--data", str(images))
    assert code == 2
    assert word in text


@pytest.mark.parametrize("name", [b"\xff\xfe", b"two\nlines", b"\x1b[31mred"])
def test_a_class_that_cannot_be_written_down_is_refused(say, tmp_path, images, name):
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    for split in ("train", "val"):
        (copy / split / "bee").rename(copy / split / os.fsdecode(name))
    code, text = say("resnet20", "--target", "cpu", "--data", str(copy))
    assert code == 2
    assert "rename it" in text
    assert "\x1b" not in text
    assert len(text.splitlines()) == 1


def test_an_image_whose_name_is_no_utf_8_is_an_image_and_may_be_corrupt(say, tmp_path, images):
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    odd = copy / "val" / "bee" / os.fsdecode(b"\xff.png")
    (copy / "val" / "bee" / "3.png").rename(odd)
    assert open_dataset(copy, seed=0, calibration=32, allow=frozenset()).validation.images[-1].where.isprintable()
    odd.write_bytes(b"")
    code, text = say("resnet20", "--target", "cpu", "--data", str(copy))
    assert code == 2
    assert ".png is not an image" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compile", "resnet18"], "--target"),
        (["frobnicate"], "frobnicate"),
        (["compile", "resnet18", "--target", "cpu", "--mean", "1,b"], "'1,b' is not a list of numbers"),
        (["compile", "resnet18", "--target", "cpu", "--budget", "macs_g=abc"], "'macs_g=abc' is not NAME=VALUE"),
        (["compile", "resnet18", "--target", "cpu", "--range", "9,1"], "'9,1' is no range"),
        (["macs", "resnet18", "--size", "8x"], "'8x' is no size"),
        (["compile", "resnet18", "--target", "cpu", "--data", ""], "--data: is empty"),
        (["compile", "resnet18", "--target", "cpu", "--weights", " "], "--weights: is empty"),
        (["compile", "resnet18", "--target", "cpu", "--data", os.fsdecode(b"\xff")], "is not UTF-8"),
    ],
)
def test_bad_usage_exits_with_2(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
