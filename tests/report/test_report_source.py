"""The digest of the code: the same wherever the package lies, another after any change of a module or data file."""

import shutil
from pathlib import Path

import pytest

import edgeres
from edgeres.pipeline.assemble import source_digest


@pytest.fixture
def package(tmp_path):
    place = tmp_path / "somewhere" / "edgeres"
    (place / "targets").mkdir(parents=True)
    (place / "__init__.py").write_text("__version__ = '0'\n")
    (place / "targets" / "x86.yaml").write_text("name: x86\n")
    (place / "note.md").write_text("prose\n")
    return place


def test_source_digest_is_independent_of_folder(package, tmp_path):
    shutil.copytree(package, tmp_path / "elsewhere")
    assert source_digest(tmp_path / "elsewhere") == source_digest(package)


@pytest.mark.parametrize("name", ["__init__.py", "targets/x86.yaml"])
def test_source_digest_changes_with_code(package, name):
    before = source_digest(package)
    content = (package / name).read_text()
    (package / name).write_text(content + " ")
    assert source_digest(package) != before
    (package / name).write_text(content)
    assert source_digest(package) == before
    (package / name).rename((package / name).with_stem("moved"))
    assert source_digest(package) != before


def test_source_digest_ignores_other_files(package):
    before = source_digest(package)
    (package / "note.md").write_text("other prose\n")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").write_bytes(b"1")
    (package / "recipes").mkdir()
    (package / "recipes" / "default.yaml").write_text("- train\n")
    assert source_digest(package) == before


def test_source_digest_of_installed_package():
    found = source_digest(Path(edgeres.__file__).parent)
    assert len(found) == 64
    assert found == source_digest(Path(edgeres.__file__).parent)
