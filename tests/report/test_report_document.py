"""``report.json`` is the truth: it round-trips, refuses what contradicts itself, and alone decides what pages say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from example_run import evil, jetson, stopped, x86

from edgeres.errors import StoreError, UsageError
from edgeres.report.html import html
from edgeres.report.markdown import markdown
from edgeres.report.report_files import render, write
from edgeres.runs.document import decode, encode
from edgeres.runs.run import Run, Timings

RUNS = [jetson, x86, stopped, evil]


@pytest.mark.parametrize("make", RUNS)
def test_round_trip(make: type[Run]) -> None:
    run = make()
    assert decode(encode(run), "report.json") == run
    assert encode(decode(encode(run), "report.json")) == encode(run)


def test_json_is_independent_of_mapping_order() -> None:
    run = x86()
    turned = replace(run, provenance=replace(run.provenance, packages=dict(reversed(run.provenance.packages.items()))))
    assert list(turned.provenance.packages) != list(run.provenance.packages)
    assert encode(turned) == encode(run)


def test_json_begins_with_schema_and_verdict() -> None:
    document = json.loads(encode(x86(1.4)))
    assert list(document)[:2] == ["schema", "verdict"]
    assert document["schema"] == "edgeres.report/4"
    assert document["verdict"] == {
        "status": "failed",
        "exit_code": 3,
        "headline": "Failed: resnet18 for x86 breaks 1 of 4 budget lines: latency p50 1.4 ms > 1.02 ms.",
        "lines": {"passed": 3, "failed": 1, "unmeasured": 0},
    }


def test_equal_runs_differ_only_in_timings() -> None:
    first, second = (json.loads(encode(x86(latency))) for latency in (0.61, 0.66))
    assert first["timings"] != second["timings"]
    del first["timings"], second["timings"]
    assert first == second


def edited(**changes: object) -> str:
    return json.dumps({**json.loads(encode(x86(1.4))), **changes})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no report"),
        (edited(schema="edgeres.report/5"), "has schema 'edgeres.report/5'"),
        (edited(schema=None), "has schema None"),
        (edited(surprise=1), "unknown key 'surprise'"),
        (edited(stages=[{"stage": "train", "top1": 120}]), "less than or equal to 100"),
        (edited(verdict={"status": "passed"}), "its verdict is not what its facts amount to"),
        (edited(verdict=None), "its verdict is not what its facts amount to"),
    ],
)
def test_decode_rejects_invalid_report(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        decode(text, "report.json")


def test_decode_accepts_headline_of_another_version() -> None:
    document = json.loads(encode(x86()))
    document["verdict"]["headline"] = "Passed: resnet18 for x86 keeps every line."
    assert decode(json.dumps(document), "report.json") == x86()


SINCE_1 = {
    "flips": ("float_confidence", "deployed_confidence"),
    "tensors": ("low", "high", "zeros", "columns"),
    "stages": ("techniques",),
    "provenance": ("code", "cores", "scales"),
}


def test_decode_accepts_earlier_schema() -> None:
    document = json.loads(encode(x86()))
    document["schema"] = "edgeres.report/1"
    del document["sensitivity"]
    rows = {
        "flips": document["flips"],
        "tensors": document["calibration"]["tensors"],
        "stages": document["stages"],
        "provenance": [document["provenance"]],
    }
    for name, fields in SINCE_1.items():
        for row in rows[name]:
            for field in fields:
                del row[field]
    run = decode(json.dumps(document), "report.json")
    assert run.schema == "edgeres.report/4"
    assert run.accuracy == x86().accuracy
    assert run.flips[0].float_confidence is None
    assert html(run)
    assert markdown(run)


def test_histogram_columns_require_low_and_high() -> None:
    document = json.loads(encode(x86()))
    document["calibration"]["tensors"][0]["high"] = None
    with pytest.raises(UsageError, match="columns lie between low and high"):
        decode(json.dumps(document), "report.json")


def test_decode_rejects_edited_budget_line() -> None:
    document = json.loads(encode(x86(1.4)))
    document["timings"]["lines"][0] |= {"status": "passed", "value": 0.9}
    with pytest.raises(UsageError, match="its verdict is not"):
        decode(json.dumps(document), "report.json")


def test_accuracy_rejects_inconsistent_drop() -> None:
    document = json.loads(encode(x86()))
    document["accuracy"]["drop_pp"] = 0.0
    with pytest.raises(UsageError, match="drop_pp is not"):
        decode(json.dumps(document), "report.json")


def test_thumbnail_must_be_png_data_uri() -> None:
    document = json.loads(encode(x86()))
    for bad in ("https://example.org/a.png", "data:text/html;base64,AAAA", 'data:image/png;base64,AA"onload="x'):
        document["flips"][0]["thumbnail"] = bad
        with pytest.raises(UsageError, match="thumbnail"):
            decode(json.dumps(document), "report.json")


def test_render_reproduces_written_bytes(tmp_path: Path) -> None:
    written = write(jetson(), tmp_path)
    assert [path.name for path in written] == ["report.json", "report.md", "report.html"]
    before = {path.name: path.read_bytes() for path in written}
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.md").write_text("stale")
    assert [path.name for path in render(tmp_path)] == ["report.md", "report.html"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_render_follows_edited_json(tmp_path: Path) -> None:
    write(jetson(), tmp_path)
    source = tmp_path / "report.json"
    source.write_text(encode(replace(jetson(), notes=("a note from the file",))), encoding="utf-8")
    render(tmp_path)
    assert "a note from the file" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a note from the file" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_render_names_folder_without_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*report\.json"):
        render(tmp_path)


def test_write_names_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        write(jetson(), tmp_path / "missing")


def test_times_pair_with_stages_of_equal_name() -> None:
    run = x86()
    assert run.time_of(4).seconds == 21.7
    twice = replace(run, stages=(run.stages[4], *run.stages))
    assert twice.time_of(0).seconds == 21.7
    assert twice.time_of(5) is None
    timed = replace(
        twice, timings=replace(run.timings, stages=(*run.timings.stages, replace(run.timings.stages[4], seconds=9.0)))
    )
    assert [timed.time_of(row).seconds for row in (0, 5)] == [21.7, 9.0]
    assert replace(run, timings=Timings()).time_of(0) is None


def test_rendering_does_not_import_torch(tmp_path: Path) -> None:
    write(jetson(), tmp_path)
    script = (
        "import sys; from pathlib import Path; from edgeres.report.report_files import render; "
        "render(Path(sys.argv[1])); print(sorted({'torch', 'onnxruntime', 'openvino', 'onnx'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


OLD_NAMES = {
    "hint": "way_out",
    "techniques": "rungs",
    "timings": "laps",
    "predicted_status": "outlook",
    "over_float": "over_twin",
}


def test_decode_renames_keys_of_earlier_schema() -> None:
    document = json.loads(encode(x86()))

    def older(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{OLD_NAMES.get(key, key): value for key, value in row.items()} for row in rows]

    old = {
        **document,
        "schema": "edgeres.report/2",
        "stages": older(document["stages"]),
        "lines": older(document["lines"]),
    }
    timings = document["timings"]
    old["timings"] = {**timings, "stages": older(timings["stages"]), "lines": older(timings["lines"])}
    if timings["bench"]:
        old["timings"]["bench"] = {**timings["bench"], "rows": older(timings["bench"]["rows"])}
    assert old["stages"] != document["stages"]
    assert decode(json.dumps(old), "report.json") == x86()
