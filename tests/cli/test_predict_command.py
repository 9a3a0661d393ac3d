import json

import pytest

from edgeres.cli import main
from edgeres.latency.host_profile import HostProfile, ProfileValidation, encode
from edgeres.latency.lookup_table import WHOLE, assembled
from edgeres.model.cost import macs
from edgeres.model.graph import graph
from edgeres.model.presets import preset


def document(capsys, *words, code=0):
    assert main(["predict", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def measured(tmp_path):
    place = tmp_path / "measured.json"
    place.write_text(json.dumps({"model": "resnet50", "latency_ms": 2.5}))
    return place


@pytest.fixture
def profile(tmp_path):
    """A CPU whose every multiply-add takes a nanosecond."""
    ms = {}
    for layer in WHOLE:
        work = layer.kernel**2 * layer.c_in * layer.c_out * layer.side**2
        ms[layer] = 1e-6 * work * (1 if layer.role in ("step", "stem", "head") else 2)
    table = assembled(ms, 0.01, 1.0)
    trial = ProfileValidation(name="t", precision="int8", predicted_ms=1.05, measured_ms=1.0)
    made = HostProfile(
        target="cpu", runtime="ONNX Runtime", cpu="a CPU", cores=1, threads=1, load=0, known=("x",),
        tables={"int8": table, "float": table}, trials=(trial,),
    )  # fmt: skip
    place = tmp_path / "profile.json"
    place.write_text(encode(made))
    return place


def test_every_layer_the_band_and_the_line_it_decides(capsys):
    found = document(capsys, "resnet50", "--target", "jetson")
    assert (found["model"], found["size"], found["precision"]) == ("resnet50", 224, "int8")
    assert found["low_ms"] < found["predicted_ms"] < found["high_ms"] < 4
    assert sum(layer["ms"] for layer in found["layers"]) + found["call_ms"] == pytest.approx(found["predicted_ms"])
    assert sum(layer["macs"] for layer in found["layers"]) == macs(graph(preset("resnet50")), 224, 224)
    (line,) = found["lines"]
    assert (line["status"], line["value"], line["predicted_status"], line["limit"]) == ("unmeasured", None, "passes", 4)


def test_both_figures_and_the_one_a_budget_means(capsys):
    found = document(capsys, "resnet50", "--target", "jetson")
    assert found["figure"] == "host_latency"
    assert found["lines"][0]["figure"] == "host_latency"
    assert found["gpu_compute_ms"] + found["call_ms"] == pytest.approx(found["predicted_ms"])
    assert document(capsys, "resnet50", "--target", "raspberry-pi")["gpu_compute_ms"] is None
    main(["predict", "resnet50", "--target", "jetson"])
    text = capsys.readouterr().out
    assert f"GPU compute {found['gpu_compute_ms']:.3g} ms (band " in text
    assert f"host latency {found['predicted_ms']:.3g} ms (band " in text
    assert "a latency budget means host latency" in text


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_every_precision_of_a_gpu(precision, capsys):
    found = document(capsys, "resnet34", "--target", "jetson-orin-nano-super", "--precision", precision)
    assert found["precision"] == precision
    assert any(layer["integer"] for layer in found["layers"]) is (precision == "int8")


def test_old_jetsons_are_predicted_in_float(capsys):
    found = document(capsys, "resnet34", "--target", "jetson-nano")
    assert found["precision"] == "fp16"
    assert "CUDA cores" in found["basis"]
    assert main(["predict", "resnet34", "--target", "jetson-nano", "--precision", "int8"]) == 2
    assert "ask for fp16 or fp32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "code", "predicted_status"), [(100, 0, "passes"), (1.6, 5, "open"), (0.5, 3, "fails")]
)
def test_the_exit_code_is_the_outlook(limit, code, predicted_status, capsys):
    found = document(capsys, "resnet50", "--target", "jetson", "--budget", f"latency_p50_ms={limit}", code=code)
    assert found["lines"][0]["predicted_status"] == predicted_status


def test_without_a_budget_there_is_nothing_to_keep(capsys):
    assert document(capsys, "resnet34", "--target", "jetson")["lines"] == []


def test_one_measured_network_calibrates(measured, capsys):
    alone = document(capsys, "resnet18", "--target", "jetson")
    known = document(capsys, "resnet18", "--target", "jetson", "--calibrate", measured)
    assert known["high_ms"] / known["low_ms"] < alone["high_ms"] / alone["low_ms"]
    itself = document(capsys, "resnet50", "--target", "jetson", "--calibrate", measured)
    assert itself["predicted_ms"] == pytest.approx(2.5, rel=1e-3)


def test_a_phone_without_peaks_needs_one(measured, capsys):
    assert main(["predict", "resnet18", "--target", "w4a8"]) == 2
    assert "--calibrate FILE" in capsys.readouterr().err
    assert document(capsys, "resnet18", "--target", "w4a8", "--calibrate", measured)["predicted_ms"] < 2.5


def test_this_host_points_to_its_profile(profile, capsys):
    assert main(["predict", "resnet18", "--target", "cpu"]) == 2
    assert "edgeres profile --target cpu" in capsys.readouterr().err
    found = document(capsys, "resnet18", "--target", "cpu", "--profile", profile, code=3)
    assert found["predicted_ms"] == pytest.approx(0.01 + 1e-6 * macs(graph(preset("resnet18")), 224, 224), rel=0.01)
    assert {layer["bound"] for layer in found["layers"]} == {"measured"}


def test_calibrating_in_the_other_precision_is_refused(measured, capsys):
    assert (
        main(["predict", "resnet18", "--target", "jetson", "--precision", "float", "--calibrate", str(measured)]) == 2
    )
    assert "measure a network in FP16" in capsys.readouterr().err


def test_people_see_the_slowest_layers_and_the_rest_in_one_line(capsys):
    assert main(["predict", "resnet50", "--target", "jetson"]) == 0
    text = capsys.readouterr().out
    assert "48 more" in text
    assert "predicted: resnet50 at 224 px, INT8 on Jetson Orin Nano" in text
    assert "predicted to pass: Latency p50, at most 4 ms" in text
    assert "call, on the host" in text
    assert "missed by" in text


def test_a_tail_is_not_predicted(capsys):
    main(["predict", "resnet50", "--target", "jetson", "--budget", "latency_p90_ms=100"])
    assert "a prediction says nothing of the tail" in capsys.readouterr().out


def test_profile_refuses_what_does_not_run_here(capsys):
    assert main(["profile", "--target", "jetson", "--quiet"]) == 2
    assert "does not run on this host" in capsys.readouterr().err
