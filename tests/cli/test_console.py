"""What a user sees: bars with an ETA on a terminal, plain lines in a log, and JSON alone for machines."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgeres
from edgeres.cli import main

pytestmark = pytest.mark.slow

RUN = [
    "compile", "resnet20", "--target", "cpu", "--crop", "8", "--resize", "8", "--set", "train.epochs=2",
    "--set", "recover.epochs=1", "--set", "quantize.technique=calibrate", "--set", "quantize.calibrator=minmax",
    "--set", "verify.seconds=0.1", "--budget", "accuracy_drop_pp=50",
]  # fmt: skip
STAGES = [
    "train",
    "evaluate",
    "fold_batchnorm",
    "prune",
    "recover",
    "evaluate",
    "quantize",
    "export",
    "build",
    "verify",
]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**kept, "PYTHONPATH": str(Path(edgeres.__file__).parent.parent), **more}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("console")


@pytest.fixture(scope="module")
def terminal(place):
    """Exit code and everything a terminal got from a run that computes every stage."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgeres", *RUN, "--out", str(place / "run"), "--cache", str(place / "cache")]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm-256color", COLUMNS="110", LINES="40"),
        cwd=place,
    )
    os.close(theirs)
    received = bytearray()
    try:
        while block := os.read(ours, 1 << 16):
            received += block
    except OSError:  # Linux's end of a pseudo-terminal
        pass
    finally:
        os.close(ours)
    return process.wait(), received.decode()


@pytest.fixture(scope="module")
def finished(place, terminal):
    """Arguments that repeat the terminal's run from its cache."""
    assert terminal[0] == 0
    return [*RUN, "--out", str(place / "run"), "--cache", str(place / "cache")]


def test_a_terminal_shows_how_far_and_how_long_still(terminal):
    code, text = terminal
    assert code == 0
    plain = CONTROL.sub("", text)
    bars = re.findall(
        r"(train resnet20|recover resnet20) +[━╸╺]+ +(\d+)/(\d+) +\d:\d\d:\d\d +eta +([-\d]+:[-\d]+:[-\d]+)", plain
    )
    assert {label for label, *_ in bars} == {"train resnet20", "recover resnet20"}
    done = [int(count) for label, count, *_ in bars if label == "train resnet20"]
    assert done == sorted(done)
    assert len(set(done)) > 2
    etas = [eta for *_, eta in bars if "-" not in eta]
    assert etas
    assert all(re.fullmatch(r"\d:\d\d:\d\d", eta) for eta in etas)


def test_a_terminal_ends_with_the_verdict(terminal, place):
    text = CONTROL.sub("", terminal[1]).replace("\r", "\n")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    assert lines[-1] == f"report: {place / 'run' / 'report.html'}"
    verdict = next(
        index
        for index, line in enumerate(lines)
        if line.startswith("Passed: resnet20 for cpu keeps its one budget line")
    )
    assert not any("eta" in line for line in lines[verdict:])
    steps = [line.split()[1] for line in lines[verdict:] if line.startswith("next: ")]
    assert steps == ["artifact", "Python", "speed", "CI"]
    assert max(map(len, lines[verdict:])) <= 110 or any(len(word) > 90 for line in lines for word in line.split())
    assert any(line.startswith("passed ") for line in lines[verdict:])
    stages = [line.split()[1] for line in lines if line.strip().startswith("done ")]
    assert stages == STAGES
    assert "Traceback" not in text
    hidden, shown = terminal[1].rfind("\x1b[?25l"), terminal[1].rfind("\x1b[?25h")
    assert 0 <= hidden < shown  # the cursor is given back


def test_a_log_is_plain_lines(place):
    command = [sys.executable, "-m", "edgeres", *RUN, "--out", str(place / "log"), "--cache", str(place / "log-cache")]
    command += ["--until", "evaluate"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, cwd=place)
    for text in (done.stdout, done.stderr):
        assert "\x1b" not in text
        assert "\r" not in text
        assert "━" not in text
    steps = [line.split()[:2] for line in done.stderr.splitlines() if line.split()[0] in ("...", "done")]
    assert steps == [["...", "train"], ["done", "train"], ["...", "evaluate"], ["done", "evaluate"]]
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("Incomplete: resnet20 for cpu stopped after evaluate, as asked")
    assert f"next: weights  {place / 'log' / 'weights.safetensors'}" in done.stdout.splitlines()
    assert last == f"report: {place / 'log' / 'report.html'}"


def test_a_quiet_run_says_the_verdict_alone(finished, capfd, place):
    assert main([*finished, "--quiet"]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    verdict, report = said.out.splitlines()
    assert verdict.startswith("Passed: ")
    assert report == f"report: {place / 'run' / 'report.html'}"


def test_json_is_alone_on_standard_output(finished, capfd, place):
    assert main([*finished, "--json"]) == 0
    said = capfd.readouterr()
    assert said.out == (place / "run" / "report.json").read_text(encoding="utf-8")
    assert json.loads(said.out)["verdict"]["status"] == "passed"
    assert [line.split()[1] for line in said.err.splitlines() if "done" in line.split()] == STAGES


@pytest.mark.parametrize("target", ["jetson", "rtx", "x86", "android"])
def test_no_runtime_speaks_into_the_json(finished, capfd, place, target):
    """Builders in C++ write past ``sys.stdout``; the file descriptor itself is watched."""
    arguments = [target if value == "cpu" else value for value in finished]
    arguments[arguments.index("--out") + 1] = str(place / target)
    assert main([*arguments, "--json", "--quiet"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["error"] is None
    assert said.err == ""


def test_nncf_does_not_speak_into_the_json(finished, place):
    """In a process of its own, as its loggers hold on to the streams they first saw."""
    pictures(place / "images")
    graph = place / "theirs.onnx"
    graph.write_bytes((place / "run" / "model.float.onnx").read_bytes())
    command = [sys.executable, "-m", "edgeres", "compile", str(graph), "--target", "cpu", "--json"]
    command += ["--data", str(place / "images"), "--out", str(place / "theirs"), "--cache", str(place / "cache")]
    command += ["--recipe", "onnx", "--set", "verify.seconds=0.1", "--budget", "accuracy_drop_pp=none"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, cwd=place)
    assert [row["stage"] for row in json.loads(done.stdout)["stages"]][1] == "quantize"
    known = ("edgeres compile", "  ...", "  done", "  note")
    assert [line for line in done.stderr.splitlines() if not line.startswith(known)] == []


def pictures(root):
    """Ten classes of distinct noise."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for label in range(10):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{index}.png")


@pytest.mark.parametrize(
    "command",
    [
        ["targets"],
        ["models"],
        ["recipes"],
        ["lint", "model.onnx", "--target", "cpu"],
        ["lint", "model.onnx", "--target", "jetson"],
        ["report", "."],
    ],
)
def test_every_list_has_a_form_for_machines(finished, capfd, monkeypatch, place, command):
    monkeypatch.chdir(place / "run")
    code = main([*command, "--json"])
    said = capfd.readouterr()
    assert code == (3 if command[-1] == "jetson" else 0)  # uint8 activations are an error there
    found = json.loads(said.out)
    entries = found["findings"] if command[0] == "lint" else found
    assert bool(entries) == (command != ["lint", "model.onnx", "--target", "cpu"])  # nothing to say there
    assert said.err == ""


def test_a_plan_has_a_form_for_machines(finished, capfd):
    assert main([*finished, "--plan", "--json"]) == 0
    assert [row["stage"] for row in json.loads(capfd.readouterr().out)] == STAGES


def test_a_failed_run_says_why_beside_the_json(place, capfd):
    arguments = ["compile", "resnet20", "--target", "cpu", "--recipe", str(place / "wrong.yaml"), "--crop", "8"]
    (place / "wrong.yaml").write_text("- train: {epochs: 1}\n- quantize\n- export\n", encoding="utf-8")
    where = ["--out", str(place / "wrong"), "--cache", str(place / "cache"), "--calibration", "64"]
    assert main([*arguments, *where, "--json"]) == 1
    said = capfd.readouterr()
    error = json.loads(said.out)["error"]
    assert (error["stage"], error["kind"]) == ("quantize", "StageError")
    assert said.err.splitlines()[-1].endswith("put '- fold_batchnorm' before '- quantize'")
    assert main([*arguments, *where, "--quiet"]) == 1
    said = capfd.readouterr()
    (failure,) = said.err.splitlines()
    assert failure.startswith("edgeres: resnet20 for cpu stopped in quantize: ")
    assert failure.endswith("put '- fold_batchnorm' before '- quantize'")
    (report,) = said.out.splitlines()
    assert report.startswith("report: ")
