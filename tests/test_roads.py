"""Every road through the product on a small network: each target, a foreign graph, transfer, and a target in float."""

import json
import shutil
from urllib.error import URLError

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import load_file

from edgeres.cli import main
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.graph_index import opset_of
from edgeres.settings import sha256_file
from edgeres.targets import target as known_targets
from edgeres.targets.target import Budget, Target, find_target

pytestmark = pytest.mark.slow

CLASSES = ("flat", "steep")
SMALL = ["--crop", "8", "--resize", "8"]
LIMITS = ["--budget", "accuracy_drop_pp=50", "--budget", "latency_p90_ms=1000"]
QUICK = ["--set", "verify.seconds=0.1"]
SHARED = {
    "model.onnx", "model.float.onnx", "calibration.json", "predictions.json", "manifest.json", "recipe.lock.yaml",
    "request.json",
}  # fmt: skip
REPORT = {"report.html", "report.md", "report.json"}
BUNDLE = {
    "SHA256SUMS", "README.md", "golden_inputs.npy", "golden_outputs.npy", "manifest.json", "preprocess.json",
    "golden_pixels.npy", "pixels_0.png", "pixels_1.png", "pixels_2.png", "pixels_3.jpg",
}  # fmt: skip
TENSORRT = BUNDLE | {
    "model.onnx", "build_engine.sh", "build_engine.py", "run_engine.py", "engine.py", "device.py", "pixels.py",
}  # fmt: skip
CHECKED = BUNDLE | {"model.onnx", "check_device.py", "device.py", "pixels.py"}

TARGETS = {
    # name: where the engine goes, its files, int8 activations, opset, IR, how integer layers were counted
    "jetson-orin-nano": ("bundle", TENSORRT, True, 17, 8, "has not run here"),
    "jetson-agx-orin:trt11.4": ("bundle", TENSORRT, True, 17, 8, "has not run here"),
    "jetson-xavier-nx": ("bundle", TENSORRT, True, 13, 8, "has not run here"),
    "rtx": ("engine", {"model.rtx.engine"}, True, 17, 8, "in the engine"),
    "x86": ("engine", {"model.xml", "model.bin"}, False, 17, 8, "OpenVINO's executable graph"),
    "cpu": ("engine", {"model.onnx"}, False, 17, 8, "as ONNX Runtime rewrote it"),
    "cpu:litert": ("engine", {"model.tflite"}, False, 17, 8, "LiteRT's interpreter on this host"),
    "raspberry-pi": ("bundle", CHECKED, False, 17, 8, "as ONNX Runtime rewrote it"),
    "x86-avx2": ("bundle", CHECKED, False, 17, 8, "as ONNX Runtime rewrote it"),
    "android": ("bundle", BUNDLE | {"model.ort", "required_operators.config"}, False, 17, 8, "in the .ort file"),
    "w4a8": ("bundle", CHECKED, False, 21, 10, "simulates 18 layers of 4-bit weights"),
}
WEIGHTS = {"w4a8": {TensorProto.INT4, TensorProto.INT8}}
INTEGER = {"w4a8": 1}
"""Where they are not int8, and not all layers but the classifier."""
HERE = {"x86", "cpu", "cpu:litert"}
"""Targets whose real runtime is this host; every other one's latency is nobody's to pass."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Run folders side by side, with one cache: what roads share is computed once."""
    return tmp_path_factory.mktemp("roads")


@pytest.fixture(scope="module")
def road(place):
    """Runs ``edgeres compile`` once per name; returns its exit code, folder and report."""
    done = {}

    def run(name, *arguments):
        if name not in done:
            out = place / name
            where = ["--out", str(out), "--cache", str(place / "cache"), "--quiet"]
            code = main([*arguments, *where])
            done[name] = (code, out, json.loads((out / "report.json").read_text()))
        return done[name]

    return run


def sample(road, target):
    epochs = ["--set", "train.epochs=1", "--set", "recover.epochs=1"]
    return road(target, "compile", "resnet20", "--target", target, *SMALL, *epochs, *QUICK, *LIMITS)


def names(folder):
    """Files below a folder, hidden ones left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix() for path in files}


def code_types(model):
    """Element types of the codes behind QuantizeLinear on activations, and of quantized weights."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    activations = {constants[n.input[2]].data_type for n in model.graph.node if n.op_type == "QuantizeLinear"}
    read = (n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear")
    return activations, {constants[name].data_type for name in read if name in constants}


def zero_points(model):
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = (n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear"))
    return np.concatenate([np.atleast_1d(constants[node.input[2]]).ravel() for node in pairs])


# ---- every target


def test_every_target_has_its_road():
    """Targets that differ in figures alone share one; tests/test_target.py has every device and version."""
    assert {_road(name) for name in TARGETS} >= {_road(name) for name in known_targets.targets()} - {None}


def _road(name):
    """What of a target decides which way its run takes; None for a device without INT8, which has tests of its own."""
    target = find_target(name)
    scheme, runtime = target.scheme, target.runtime
    if scheme is None:
        return None
    narrow = scheme.weight_bits, scheme.reduce_range
    return target.backend, target.build_on, scheme.signed, *narrow, runtime.float_weights, runtime.strongly_typed


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_holds_what_its_target_needs(road, target):
    where, files, *_ = TARGETS[target]
    code, out, _ = sample(road, target)
    assert code == 0
    assert names(out) == SHARED | REPORT | {f"{where}/{name}" for name in files}
    sums = json.loads((out / "manifest.json").read_text())["files"]
    assert set(sums) == names(out) - REPORT - {"manifest.json", "request.json"}
    assert all(sha256_file(out / name) == wanted for name, wanted in sums.items())


@pytest.mark.parametrize("target", TARGETS)
def test_the_graph_is_written_for_its_target(road, target):
    _, _, signed, opset, ir_version, _ = TARGETS[target]
    model = onnx.load(sample(road, target)[1] / "model.onnx")
    assert (opset_of(model), model.ir_version) == (opset, ir_version)
    activations, weights = code_types(model)
    assert weights == WEIGHTS.get(target, {TensorProto.INT8})
    if signed:
        assert activations == {TensorProto.INT8}
        assert not zero_points(model).any()
    else:
        assert TensorProto.UINT8 in activations
    twin = onnx.load(sample(road, target)[1] / "model.float.onnx")
    assert (opset_of(twin), twin.ir_version) == (opset, ir_version)
    assert operator_counts.qdq(twin) == operator_counts.QdqCounts(activations=0, weights=0, weighted=20)
    assert operator_counts.macs(twin) == operator_counts.macs(model)


@pytest.mark.parametrize("target", TARGETS)
def test_integer_layers_are_counted(road, target):
    *_, how = TARGETS[target]
    kernels = sample(road, target)[2]["kernels"]
    assert (kernels["integer"], kernels["weighted"]) == (INTEGER.get(target, 19), 20)
    assert how in kernels["how"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_not_here_is_unmeasured_and_never_passed(road, target):
    _, _, report = sample(road, target)
    (latency,) = (line for line in report["timings"]["lines"] if line["name"] == "latency_p90_ms")
    if target in HERE:
        assert latency["status"] == "passed"
        assert 0 < latency["value"] < 1000
        assert {row["variant"] for row in report["timings"]["latency"]} == {"float32", "int8"}
    else:
        assert latency["status"] == "unmeasured"
        assert latency["value"] is None
        assert "is not here" in latency["how"]
        assert report["timings"]["latency"] == []
    accuracy = next(line for line in report["lines"] if line["name"] == "accuracy_drop_pp")
    assert accuracy["status"] == "passed"
    assert report["accuracy"]["n"] == 500


@pytest.mark.parametrize("target", TARGETS)
def test_strict_fails_where_something_is_unmeasured(road, place, target):
    out = sample(road, target)[1]
    again = ["verify", str(out), "--out", str(place / f"{target}-strict"), "--cache", str(place / "cache"), "--quiet"]
    assert main([*again, "--strict"]) == (0 if target in HERE else 4)


def test_targets_of_one_scheme_have_one_set_of_scales(road):
    scales = {name: (sample(road, name)[1] / "calibration.json").read_bytes() for name in TARGETS}
    schemes = {name: find_target(name).scheme for name in TARGETS}
    for name, scheme in schemes.items():
        assert len({scales[other] for other in TARGETS if schemes[other] == scheme}) == 1, name
    assert scales["jetson-orin-nano"] != scales["cpu"]


def test_golden_answers_of_a_bundle_are_those_of_its_graph(road):
    import onnxruntime

    bundle = sample(road, "jetson-orin-nano")[1] / "bundle"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
    inputs, outputs = np.load(bundle / "golden_inputs.npy"), np.load(bundle / "golden_outputs.npy")
    given = session.get_inputs()[0].name
    found = np.concatenate([session.run(None, {given: image[None]})[0] for image in inputs])
    np.testing.assert_allclose(found, outputs, atol=1e-5)


# ---- images of the user's own


def picture(random, label, size=12):
    """Noise around one level, or around a ramp: told apart by eye and by any small network."""
    ramp = np.linspace(-100, 100, size)[None, :, None] if label else 0
    pixels = 128 + ramp + random.normal(0, 12, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def images(place):
    random = np.random.default_rng(0)
    for split, count in (("train", 80), ("val", 40)):
        for label, name in enumerate(CLASSES):
            folder = place / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                picture(random, label).save(folder / f"{index}.png")
    return place / "images"


@pytest.fixture(scope="module")
def trained(road, images):
    """``edgeres train`` on the pictures."""
    arguments = ["train", "resnet20", "--epochs", "4", "--data", str(images), *SMALL, "--set", "train.batch=32"]
    return road("trained", *arguments)


def test_train_keeps_weights_that_know_their_classes_and_preprocessing(trained):
    code, out, report = trained
    assert code == 0
    assert names(out) == REPORT | {"weights.safetensors", "manifest.json", "recipe.lock.yaml", "request.json"}
    assert [row["stage"] for row in report["stages"]] == ["train", "evaluate"]


def test_a_frozen_backbone_stays_to_the_bit(road, images, trained):
    weights = trained[1] / "weights.safetensors"
    arguments = ["train", "resnet20", "--weights", str(weights), "--data", str(images), "--freeze", "backbone"]
    code, out, _ = road("transfer", *arguments, "--epochs", "1", "--set", "train.batch=32")
    assert code == 0
    before, after = load_file(weights), load_file(out / "weights.safetensors")
    assert set(before) == set(after)
    moved = {key for key in before if not np.array_equal(before[key], after[key])}
    assert moved == {"fc.weight", "fc.bias"}


def test_a_frozen_backbone_needs_weights(place, images, capsys):
    arguments = ["train", "resnet20", "--data", str(images), "--freeze", "backbone", *SMALL]
    assert main([*arguments, "--out", str(place / "nothing"), "--cache", str(place / "cache"), "--quiet"]) == 2
    assert "weights" in "".join(capsys.readouterr())


def test_a_head_for_other_classes_is_trained_anew(road, place, images, trained):
    three = place / "three"
    shutil.copytree(images, three)
    random = np.random.default_rng(3)
    for split, count in (("train", 40), ("val", 20)):
        (three / split / "dark").mkdir()
        for index in range(count):
            pixels = random.integers(0, 40, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(three / split / "dark" / f"{index}.png")
    weights = str(trained[1] / "weights.safetensors")
    arguments = ["train", "resnet20", "--weights", weights, "--data", str(three), "--freeze", "backbone"]
    code, out, _ = road("three-classes", *arguments, "--epochs", "1")
    assert code == 0
    assert load_file(out / "weights.safetensors")["fc.weight"].shape == (3, 64)


def test_a_pruned_network_is_loaded_without_a_further_word(road, images, trained):
    weights = str(trained[1] / "weights.safetensors")
    common = ["compile", "resnet20", "--target", "cpu", "--data", str(images), *QUICK]
    prune = ["--recipe", "int8_pruned", "--until", "prune"]
    code, pruned, report = road("pruned", *common, *prune, "--weights", weights)
    assert code == 0
    macs = report["stages"][-1]["macs"]
    assert macs <= 0.65 * report["stages"][1]["macs"]
    code, out, report = road("narrow", *common, *LIMITS, "--weights", str(pruned / "weights.safetensors"))
    assert code == 0
    assert operator_counts.macs(onnx.load(out / "model.onnx")) == macs
    assert report["provenance"]["weights"] == sha256_file(pruned / "weights.safetensors")
    assert "preprocessing as stated with the weights" in report["stages"][0]["notes"]


def test_published_weights_without_a_network_say_the_way_out(place, images, monkeypatch, capsys):
    asked = []

    def unreachable(request, *_, **__):
        asked.append(request.full_url)
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(place / "hub"))
    classes = place / "classes.csv"
    classes.write_text("folder,output\nflat,0\nsteep,1\n")
    arguments = ["compile", "resnet18", "--target", "cpu", "--weights", "IMAGENET1K_V1", "--data", str(images)]
    arguments += ["--classes", str(classes)]
    out = place / "published"
    assert main([*arguments, "--out", str(out), "--cache", str(place / "cache"), "--quiet"]) == 2
    (url,) = asked
    text = "".join(capsys.readouterr())
    assert "cannot be downloaded: Name or service not known" in text
    assert f"fetch {url} by other means and pass --weights {url.rpartition('/')[2]}" in text
    assert not out.exists()


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"version https://git-lfs.github.com/spec/v1\n"])
def test_weights_that_cannot_be_read_are_refused_before_the_data_is_looked_at(content, place, capsys):
    (place / "w.pth").write_bytes(content)
    words = ["compile", "resnet18", "--target", "cpu", "--weights", str(place / "w.pth"), "--data", str(place / "none")]
    assert main([*words, "--out", str(place / "no"), "--quiet"]) == 2
    text = capsys.readouterr().err
    assert "w.pth" in text
    assert "none" not in text
    assert not (place / "no").exists()


# ---- a foreign graph


def convolution(random, name, given, shape):
    weight = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
    tensors = [
        numpy_helper.from_array(weight, f"{name}.w"),
        numpy_helper.from_array(np.zeros(shape[0], "f"), f"{name}.b"),
    ]
    return helper.make_node("Conv", [given, f"{name}.w", f"{name}.b"], [name], name=name, pads=[1, 1, 1, 1]), tensors


@pytest.fixture(scope="module")
def foreign(place):
    """Somebody else's classifier: other names, a fixed batch, a residual, a head that tells flat from steep."""
    random = np.random.default_rng(7)
    stem, first = convolution(random, "stem", "x", (16, 3, 3, 3))
    inner, second = convolution(random, "inner", "a", (16, 16, 3, 3))
    nodes = [
        stem,
        helper.make_node("Relu", ["stem"], ["a"]),
        inner,
        helper.make_node("Add", ["inner", "a"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], ["y"], transB=1),
    ]
    head = random.normal(0, 1, (2, 16)).astype(np.float32)
    tensors = [numpy_helper.from_array(head, "fc.w"), numpy_helper.from_array(np.zeros(2, "f"), "fc.b")]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph(nodes, "theirs", [given], [made], [*first, *second, *tensors])
    path = place / "theirs.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("target", ["jetson", "cpu"])
def test_a_foreign_graph_walks_the_same_road(road, images, foreign, target):
    name = find_target(target).name
    where, files, signed, opset, ir_version, how = TARGETS[name]
    arguments = ["compile", str(foreign), "--target", target, "--data", str(images), *SMALL, *QUICK, *LIMITS]
    code, out, report = road(f"theirs-{target}", *arguments)
    assert code == 0
    assert names(out) == SHARED | REPORT | {f"{where}/{file}" for file in files}
    model = onnx.load(out / "model.onnx")
    assert (opset_of(model), model.ir_version) == (opset, ir_version)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "logits"]
    activations, weights = code_types(model)
    assert weights == {TensorProto.INT8}
    assert activations == {TensorProto.INT8} if signed else TensorProto.UINT8 in activations
    assert not (signed and zero_points(model).any())
    assert operator_counts.macs(model) == 16 * 3 * 9 * 64 + 16 * 16 * 9 * 64 + 16 * 2
    assert (report["kernels"]["integer"], report["kernels"]["weighted"]) == (2, 3)
    assert how in report["kernels"]["how"]
    assert [row["stage"] for row in report["stages"]] == ["load_onnx", "quantize", "build", "verify"]
    assert report["accuracy"]["n"] == 80


@pytest.mark.parametrize("command", ["quantize", "export"])
def test_both_commands_that_write_its_graph_work_on_a_foreign_run(road, place, images, foreign, command):
    arguments = ["compile", str(foreign), "--target", "cpu", "--data", str(images), *SMALL, *QUICK, *LIMITS]
    finished = road("theirs-cpu", *arguments)[1]
    out = place / f"theirs-{command}"
    again = [command, str(finished), "--out", str(out), "--cache", str(place / "cache"), "--quiet"]
    assert main(again) == 0
    assert (out / "model.onnx").read_bytes() == (finished / "model.onnx").read_bytes()
    assert (out / "engine" / "model.onnx").is_file(), "a stage done again goes on to the end"
    assert json.loads((out / "report.json").read_text())["accuracy"]["n"] == 80


def test_a_finished_run_is_taken_up_from_any_folder(road, place, images, trained, foreign, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    shutil.copyfile(trained[1] / "weights.safetensors", place / "mine.safetensors")
    (place / "mine.yaml").write_text("- load\n- evaluate\n- fold_batchnorm\n- quantize\n- export\n", encoding="utf-8")
    common = ["--target", "cpu", "--data", "images", *SMALL]
    code, ours, _ = road(
        "here", "compile", "resnet20", *common, "--weights", "mine.safetensors", "--recipe", "mine.yaml"
    )
    assert code == 0
    code, theirs, _ = road("theirs-here", "compile", "theirs.onnx", *common, "--until", "quantize")
    assert code == 0
    monkeypatch.chdir(tmp_path)
    for folder in (ours, theirs):
        before = (folder / "model.onnx").read_bytes()
        assert main(["export", str(folder), "--cache", str(place / "cache"), "--quiet"]) == 0
        assert (folder / "model.onnx").read_bytes() == before


# ---- a target without integers


@pytest.fixture
def halves(monkeypatch):
    """A Jetson without INT8: TensorRT may use FP16, and the graph it gets is in float."""
    jetson = find_target("jetson")
    runtime = {field: getattr(jetson.runtime, field) for field in jetson.runtime.__dataclass_fields__}
    from edgeres.targets.runtime import Runtime

    flags = tuple(flag for flag in runtime.pop("flags") if flag != "--int8")
    target = Target(
        name="jetson-nano",
        title="Jetson Nano, FP16 alone",
        backend="tensorrt",
        build_on="device",
        latency_class="gpu",
        scheme=None,
        runtime=Runtime(flags=flags, **runtime),
        device=jetson.device,
        budget=Budget(),
    )
    everything = {**known_targets.targets(), target.name: target}
    monkeypatch.setattr(known_targets, "targets", lambda: everything)
    return target


def test_a_target_without_integers_gets_the_float_graph_and_says_so(road, halves):
    code, out, report = sample(road, halves.name)
    assert code == 0
    model = onnx.load(out / "model.onnx")
    assert operator_counts.qdq(model) == operator_counts.QdqCounts(activations=0, weights=0, weighted=20)
    assert (out / "model.onnx").read_bytes() == (out / "model.float.onnx").read_bytes()
    assert names(out) == (SHARED - {"calibration.json"}) | REPORT | {f"bundle/{name}" for name in TENSORRT}
    rows = {row["stage"]: row for row in report["stages"]}
    assert rows["quantize"]["notes"] == ["the target has no INT8: the network stays in float"]
    assert report["calibration"] is None
    assert report["kernels"]["integer"] == 0
    script = (out / "bundle" / "build_engine.sh").read_text()
    assert "--fp16" in script
    assert "--int8" not in script
    build = json.loads((out / "bundle" / "manifest.json").read_text())["build"]
    assert build["precisions"] == ["FP16"]


def test_a_foreign_graph_stays_in_float_there_too(road, images, foreign, halves):
    arguments = ["compile", str(foreign), "--target", halves.name, "--data", str(images), *SMALL, *QUICK, *LIMITS]
    code, out, report = road("theirs-halves", *arguments)
    assert code == 0
    assert (out / "model.onnx").read_bytes() == (out / "model.float.onnx").read_bytes()
    rows = {row["stage"]: row for row in report["stages"]}
    assert rows["quantize"]["notes"] == ["the target has no INT8: the network stays in float"]
