"""What pip installs does the main job alone: the wheel is built, installed beside nothing of the checkout, and run."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgeres

pytestmark = pytest.mark.slow

CHECKOUT = Path(edgeres.__file__).resolve().parent.parent
RUN = [
    "resnet20", "--target", "jetson", "--crop", "8", "--resize", "8", "--set", "train.epochs=1",
    "--set", "recover.epochs=1", "--budget", "accuracy_drop_pp=50", "--budget", "macs_g=1",
]  # fmt: skip


def call(*command, folder, site=None):
    """Runs a command in a folder, with nothing but ``site`` added to what Python finds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EDGERES"))}
    environment |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if site:
        environment["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by hatchling itself: no network, no isolated environment."""
    folder = tmp_path_factory.mktemp("dist")
    call("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), folder=CHECKOUT)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed") / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(folder), str(wheel)]
    call(*install, folder=folder.parent)
    return folder


def test_a_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    (info,) = {name.partition("/")[0] for name in held if ".dist-info/" in name}
    assert info == f"edgeres-{edgeres.__version__}.dist-info"
    package = {name for name in held if not name.startswith(info)}
    kinds = {".py", ".typed", ".yaml", ".css", ".md", ".sh"}
    wanted = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "edgeres").rglob("*")
        if path.is_file() and path.suffix in kinds
    }
    recipes = {f"edgeres/recipes/{path.name}" for path in (CHECKOUT / "recipes").glob("*.yaml")}
    assert len(recipes) >= 6
    assert package == wanted | recipes
    assert f"{info}/licenses/LICENSE" in held


def test_the_same_source_gives_the_same_wheel(wheel, tmp_path):
    call("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), folder=CHECKOUT)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_metadata_names_extras_and_the_command(site):
    from importlib.metadata import PathDistribution

    (info,) = site.glob("edgeres-*.dist-info")
    distribution = PathDistribution(info)
    assert set(distribution.metadata.get_all("Provides-Extra")) == {
        "openvino", "tensorrt", "tensorrt-rtx", "executorch", "litert", "arrow", "dev",
    }  # fmt: skip
    assert distribution.metadata["Requires-Python"] == ">=3.11"
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    (script,) = distribution.entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("edgeres", "edgeres.cli:main")


def test_what_is_installed_does_the_main_job(site, tmp_path):
    origin = call("-c", "import edgeres; print(edgeres.__file__)", folder=tmp_path, site=site).stdout.strip()
    assert Path(origin).is_relative_to(site)
    arguments = ["--cache", str(tmp_path / "cache"), "--quiet"]
    call("-m", "edgeres", "compile", *RUN, *arguments, folder=tmp_path, site=site)
    out = tmp_path / "build" / "resnet20-jetson"
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"]["status"] == "passed"
    assert [row["stage"] for row in report["stages"]] == [
        "train", "evaluate", "fold_batchnorm", "prune", "recover", "evaluate", "quantize", "export", "build", "verify",
    ]  # fmt: skip
    bundle = {path.name for path in (out / "bundle").iterdir()}
    assert {"model.onnx", "build_engine.sh", "build_engine.py", "README.md", "manifest.json", "SHA256SUMS"} <= bundle
    style = (site / "edgeres" / "report" / "style.css").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert next(line for line in style.splitlines() if line.startswith(".headline")) in page


def test_lists_come_from_the_package(site, tmp_path):
    recipes = json.loads(call("-m", "edgeres", "recipes", "--json", folder=tmp_path, site=site).stdout)
    assert set(recipes) == {path.stem for path in (CHECKOUT / "recipes").glob("*.yaml")}
    targets = json.loads(call("-m", "edgeres", "targets", "--json", folder=tmp_path, site=site).stdout)
    assert {row["name"] for row in targets} == {
        path.stem for path in (CHECKOUT / "edgeres/targets/devices").glob("*.yaml")
    }
    known = "from edgeres.gate.budget import documented; from edgeres.targets.target import find_target; "
    known += "from edgeres.data.size import Size; "
    budgets = f"{known}print(*documented('resnet18', find_target('jetson'), Size.square(224)))"
    assert call("-c", budgets, folder=tmp_path, site=site).stdout.split() == ["macs_g", "latency_p50_ms"]
