"""``edgeres lint`` by hand: tables, files, refusals, and what it must never do."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.draft import Draft
from benchmarks.subjects import ours
from edgeres.cli import main
from edgeres.model.presets import preset
from edgeres.targets.target import find_target

JETSON = ("--target", "jetson-orin-nano:jp6.2")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A graph with an error that can be repaired (uint8), one that cannot (a zero scale), and a warning."""
    draft = Draft(ours(find_target("jetson")))
    scale = draft.value("layer1.0.relu1.scale")
    draft.put("layer1.0.relu1.zero_point", np.array(0, np.uint8))
    draft.put("layer1.0.relu1.scale", np.asarray(scale * 127 / 255, np.float32))
    onnx.save(draft.model, tmp_path / "given.onnx")
    return tmp_path / "given.onnx"


def test_a_repaired_graph_is_a_new_file_and_clean(broken: Path, tmp_path: Path, capsys) -> None:
    before, out = broken.read_bytes(), tmp_path / "fixed.onnx"
    assert main(["lint", str(broken), *JETSON]) == 3
    assert "Q02" in capsys.readouterr().out
    assert main(["lint", str(broken), *JETSON, "--fix", str(out)]) == 0
    said = capsys.readouterr().out
    assert "within one quantization step" in said
    assert "nothing is left to say" in said
    assert "6 activation quantizers on 6 tensors (a clean graph has 6)" in said
    assert broken.read_bytes() == before
    assert main(["lint", str(out), *JETSON]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fixed.onnx", "given.onnx"]


def test_the_same_graph_is_repaired_to_the_same_bytes(broken: Path, tmp_path: Path, capsys) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert main(["lint", str(broken), *JETSON, "--fix", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_nothing_is_ever_overwritten(broken: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"mine")
    (tmp_path / "link.onnx").symlink_to(broken)
    for place in (broken, other, tmp_path / "link.onnx", tmp_path / "." / "given.onnx"):
        assert main(["lint", str(broken), *JETSON, "--fix", str(place)]) == 2
        assert "is there already" in capsys.readouterr().err
    assert other.read_bytes() == b"mine"
    assert main(["lint", str(broken), *JETSON, "--fix", str(tmp_path / "no" / "folder.onnx")]) == 2


def test_a_repair_without_proof_writes_nothing(tmp_path: Path, capsys) -> None:
    draft = Draft(ours(find_target("jetson")))
    draft.put("image.zero_point", np.array(0, np.uint8))  # cuts negative pixels off, as int8 would not
    onnx.save(draft.model, tmp_path / "given.onnx")
    out = tmp_path / "fixed.onnx"
    assert main(["lint", str(tmp_path / "given.onnx"), *JETSON, "--fix", str(out)]) == 1
    assert "quantization steps" in capsys.readouterr().err
    assert not out.exists()
    assert main(["lint", str(tmp_path / "given.onnx"), *JETSON, "--fix", str(out), "--only", "w04"]) == 3
    assert "no file was written" in capsys.readouterr().out
    assert not out.exists()
    assert main(["lint", str(tmp_path / "given.onnx"), *JETSON, "--fix", str(out), "--only", "Z99"]) == 2
    assert "no rule of this target" in capsys.readouterr().err


def test_machines_get_all_of_it(broken: Path, tmp_path: Path, capsys) -> None:
    log = tmp_path / "log.sarif"
    arguments = ["lint", str(broken), *JETSON, "--json", "--fix", str(tmp_path / "fixed.onnx"), "--sarif", str(log)]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert {finding["rule"] for finding in found["findings"]} == {"Q02"}
    assert found["census"]["quantizers"] == found["census"]["expected_quantizers"] == 6
    assert [repair["rules"] for repair in found["fix"]["repairs"]] == [["Q02"]]
    assert found["fix"]["left"] == []
    assert json.loads(log.read_text())["runs"][0]["results"] == []


def test_code_scanning_gets_every_finding_with_its_node(broken: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["lint", "given.onnx", *JETSON, "--sarif", "log.sarif"]) == 3
    run = json.loads(Path("log.sarif").read_text())["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert len(rules) == len({rule["id"] for rule in rules}) > 30
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "Q02"
        assert result["level"] == "error"
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "given.onnx"
        assert place["logicalLocations"][0]["name"] in result["message"]["text"]
    assert len({result["partialFingerprints"]["edgeresLint/v1"] for result in run["results"]}) == len(run["results"])


def test_an_accelerator_is_asked_on_request(broken: Path, capsys) -> None:
    assert main(["lint", str(broken), "--target", "agx-orin", "--dla", "--json"]) == 3
    rules = {finding["rule"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert {"D01", "D02"} <= rules


def test_unknown_versions_say_which_there_are(broken: Path, capsys) -> None:
    assert main(["lint", str(broken), "--target", "jetson:jp4.6"]) == 2
    assert "known: jp5.0.2, jp5.1, jp6.0, jp6.1, jp6.2, jp7.2" in capsys.readouterr().err


ALONE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
WALK = """
import json, sys
from edgeres.cli import main
code = main(sys.argv[1:])
banned = ("torch", "torchvision", "nncf", "openvino", "tensorrt", "tensorrt_rtx")
heavy = [name for name in banned if name in sys.modules]
print(json.dumps([code, heavy, "onnxruntime" in sys.modules]))
"""


def alone(*arguments: str) -> list:
    done = subprocess.run(
        [sys.executable, "-c", WALK, *arguments], env=ALONE, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_lint_loads_no_runtime_for_a_whole_resnet50(tmp_path: Path) -> None:
    model = ours(find_target("jetson"), replace(preset("resnet50"), norm=False), side=64)
    onnx.save(model, tmp_path / "r50.onnx")
    assert (tmp_path / "r50.onnx").stat().st_size > 25_000_000
    assert alone("lint", str(tmp_path / "r50.onnx"), *JETSON) == [0, [], False]


def test_repairs_need_no_torch_either(broken: Path, tmp_path: Path) -> None:
    assert alone("lint", str(broken), *JETSON, "--fix", str(tmp_path / "fixed.onnx")) == [0, [], True]


# ---- files that mean harm


def hostile(tmp_path: Path, change) -> Path:
    draft = Draft(ours(find_target("jetson")))
    change(draft)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(draft.model.SerializeToString())
    return path


def outside(draft: Draft) -> None:
    tensor = next(t for t in draft.model.graph.initializer if t.name == "fc.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"


def missing(draft: Draft) -> None:
    outside(draft)
    tensor = next(t for t in draft.model.graph.initializer if t.name == "fc.weight")
    tensor.external_data[0].value = "weights.bin"


def giant(draft: Draft) -> None:
    tensor = next(t for t in draft.model.graph.initializer if t.name == "fc.weight")
    tensor.dims[:] = [1 << 40, 1 << 20]


def giant_output(draft: Draft) -> None:
    draft.put("sizes", np.array([1, 1 << 20, 1 << 20], np.int64))
    draft.before("fc", helper.make_node("ConstantOfShape", ["sizes"], ["huge"], name="huge"))


def cycle(draft: Draft) -> None:
    draft.node("layer1.0.conv1").input[2] = "layer1.0.relu"


def twice_made(draft: Draft) -> None:
    draft.node("flatten").output[0] = "avgpool"


def function(draft: Draft) -> None:
    local = draft.model.functions.add()
    local.name, local.domain = "Relu", ""  # calls itself
    local.input.append("x")
    local.output.append("y")
    local.node.append(helper.make_node("Relu", ["x"], ["y"]))


@pytest.mark.parametrize("change", [outside, missing, giant, giant_output, cycle, twice_made, function])
@pytest.mark.parametrize("fixing", [False, True])
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, capsys, change, fixing: bool) -> None:
    path = hostile(tmp_path, change)
    more = ["--fix", str(tmp_path / "out.onnx")] if fixing else []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["lint", str(path), *JETSON, *more]) == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1
    assert "Traceback" not in said.err
    assert "root:" not in said.err
    assert said.out == ""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 512 << 10  # KiB
    assert [entry.name for entry in tmp_path.iterdir()] == ["hostile.onnx"]


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"not a graph", bytes(range(256)) * 16])
def test_what_is_no_onnx_is_said_to_be_none(tmp_path: Path, capsys, data: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    assert main(["lint", str(path), *JETSON]) == 2
    assert "Traceback" not in capsys.readouterr().err
