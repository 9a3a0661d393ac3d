"""A finished run is there until its successor is, whatever happens in between."""

import json
from pathlib import Path

import pytest

from edgeres.errors import StoreError, UsageError
from edgeres.pipeline.run_folder import MANIFEST, REQUEST, RunFolder


def finished(path, text="first"):
    """A finished run, as far as its folder goes, with a file of its own in a subfolder."""
    (path / "bundle").mkdir(parents=True)
    (path / "model.onnx").write_text(text)
    (path / "bundle" / "model.onnx").write_text(text)
    (path / "report.json").write_text(text)
    (path / REQUEST).write_text("{}")
    (path / MANIFEST).write_text(json.dumps({"files": {"model.onnx": "", "bundle/model.onnx": ""}}))
    return path


def content(path):
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_text() for file in files}


def beside(path):
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


def test_a_first_run_is_written_where_it_was_asked_for(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        assert folder.attempt().path == folder.path
        assert folder.settle(folder, complete=False) == folder.path
    assert beside(folder.path) == []


def test_a_successor_takes_the_place_of_a_finished_run_and_leaves_nothing_beside_it(tmp_path):
    folder = RunFolder(finished(tmp_path / "run"))
    (folder.path / "model.float.onnx").write_text("only the first run has it")
    (folder.path / MANIFEST).write_text(json.dumps({"files": {"model.onnx": "", "model.float.onnx": ""}}))
    (folder.path / "bundle" / "model.onnx").unlink()
    with folder.held():
        attempt = folder.attempt()
        assert attempt.path.parent == tmp_path
        assert content(folder.path)["model.onnx"] == "first"
        attempt.path.rmdir()
        expected = content(finished(attempt.path, "second"))
        assert folder.settle(attempt, complete=True) == folder.path
    assert content(folder.path) == expected
    assert beside(folder.path) == []


def test_files_that_no_run_wrote_stay(tmp_path):
    folder = RunFolder(finished(tmp_path / "run"))
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "bundle" / "device.json").write_text("from the device")
    with folder.held():
        attempt = folder.attempt()
        (attempt.path / "model.onnx").write_text("second")
        (attempt.path / MANIFEST).write_text('{"files": {"model.onnx": ""}}')
        (attempt.path / REQUEST).write_text("{}")
        folder.settle(attempt, complete=True)
    found = content(folder.path)
    assert found.pop("notes.txt") == "mine"
    assert found.pop("bundle/device.json") == "from the device"
    assert set(found) == {"model.onnx", MANIFEST, REQUEST}


def test_a_failed_attempt_is_set_aside_and_the_next_one_clears_it_away(tmp_path):
    folder = RunFolder(finished(tmp_path / "run"))
    before = content(folder.path)
    with folder.held():
        attempt = folder.attempt()
        (attempt.path / REQUEST).write_text("{}")
        (attempt.path / "report.json").write_text("what went wrong")
        place = folder.settle(attempt, complete=False)
    assert place == tmp_path / "run.failed"
    assert (place / "report.json").read_text() == "what went wrong"
    assert content(folder.path) == before
    with folder.held():
        attempt = folder.attempt()
        attempt.path.rmdir()
        finished(attempt.path, "second")
        folder.settle(attempt, complete=True)
    assert beside(folder.path) == []


def test_a_folder_of_the_users_own_is_not_taken_for_a_failed_attempt(tmp_path):
    folder = RunFolder(finished(tmp_path / "run"))
    (tmp_path / "run.failed").mkdir()
    (tmp_path / "run.failed" / "notes.txt").write_text("mine")
    with folder.held():
        attempt = folder.attempt()
        assert folder.settle(attempt, complete=False) == attempt.path
    assert (tmp_path / "run.failed" / "notes.txt").read_text() == "mine"


def test_what_a_killed_attempt_left_is_removed_by_the_next_command(tmp_path):
    folder = RunFolder(finished(tmp_path / "run"))
    before = content(folder.path)
    with folder.held():
        (folder.attempt().path / "half.onnx").write_text("half")
    with folder.held():
        pass
    assert content(folder.path) == before
    assert beside(folder.path) == []


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_while_two_runs_change_places_loses_neither(tmp_path, monkeypatch, renames):
    folder = RunFolder(finished(tmp_path / "run"))
    (folder.path / "notes.txt").write_text("mine")
    first, real, done = content(folder.path), Path.rename, []

    def killed(path, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return real(path, target)

    with folder.held():
        attempt = folder.attempt()
        attempt.path.rmdir()
        second = {**content(finished(attempt.path, "second")), "notes.txt": "mine"}
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                folder.settle(attempt, complete=True)
    if renames == 1:
        assert not folder.path.exists()
        with pytest.raises(UsageError, match=REQUEST):  # it came back, and its request is the empty one above
            folder.request()
    with folder.held():
        pass
    assert content(folder.path) == (first if renames == 1 else second)
    assert beside(folder.path) == []


def test_a_name_that_leads_to_the_folder_goes_on_leading_there(tmp_path):
    real = finished(tmp_path / "store" / "run")
    (tmp_path / "latest").symlink_to(real)
    folder = RunFolder(tmp_path / "latest")
    with folder.held():
        attempt = folder.attempt()
        attempt.path.rmdir()
        finished(attempt.path, "second")
        folder.settle(attempt, complete=True)
    assert (tmp_path / "latest").is_symlink()
    assert content(real)["model.onnx"] == content(tmp_path / "latest")["model.onnx"] == "second"


def test_nobody_gets_in_while_two_runs_change_places(tmp_path, monkeypatch):
    folder, refused = RunFolder(finished(tmp_path / "run")), []

    def tidy(_):
        other = RunFolder(tmp_path / "run")
        monkeypatch.undo()
        with pytest.raises(StoreError, match="another run is using") as failure, other.held():
            pass
        refused.append(failure)

    with folder.held():
        attempt = folder.attempt()
        attempt.path.rmdir()
        finished(attempt.path, "second")
        monkeypatch.setattr(RunFolder, "_tidy", tidy)
        folder.settle(attempt, complete=True)
    assert refused


def test_a_mount_point_is_said_to_be_no_place_for_a_second_run(tmp_path, monkeypatch):
    folder = RunFolder(finished(tmp_path / "run"))
    monkeypatch.setattr(Path, "is_mount", lambda path: path == folder.path)
    with folder.held(), pytest.raises(StoreError, match="mount point"):
        folder.attempt()
    first = RunFolder(tmp_path / "new")
    with first.held():
        assert first.attempt() is first


def test_a_folder_of_other_things_is_no_place_for_a_run(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match=r"is not a run folder: it holds a\.txt, b\.txt, c\.txt, \.\.\.") as failure:
        RunFolder(tmp_path).check()
    assert "--out" in failure.value.hint
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").write_text("")
    RunFolder(tmp_path / "empty").check()
    RunFolder(tmp_path / "new").check()
    RunFolder(finished(tmp_path / "run")).check()
