"""``.ci/run`` runs README's test command as on one of the processors that the Makefile names."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
MAKE, GIT = shutil.which("make"), shutil.which("git")
pytestmark = pytest.mark.skipif(not (MAKE and GIT and (CHECKOUT / ".git").exists()), reason="no checkout with make")

STAND_IN = f"""#!/bin/sh
if [ "$1" = --silent ]; then exec {MAKE} "$@"; fi
echo "make $* with WAY=$WAY"
"""


# Without what a make that runs these tests hands on.
OUTSIDE = {name: value for name, value in os.environ.items() if name not in ("WAY", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")}


def ways():
    command = [MAKE, "--silent", "ways"]
    return subprocess.run(command, cwd=CHECKOUT, env=OUTSIDE, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def run(tmp_path):
    """Runs ``.ci/run`` with a make that says what it was asked, and a browser that is there."""
    for name, text in {"make": STAND_IN, "chromium": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def call(**more):
        environment = {**OUTSIDE, "PATH": f"{tmp_path}:{os.environ['PATH']}", **more}
        return subprocess.run([CHECKOUT / ".ci" / "run"], env=environment, capture_output=True, text=True, check=True)

    return call


def test_commit_selects_processor_and_log_names_it(run):
    first, second = run().stdout, run().stdout
    assert first == second
    (way,) = re.findall(r"^WAY=([\w-]+)", first, re.MULTILINE)
    assert way in ways().split()
    assert f"make test with WAY={way}" in first


@pytest.mark.parametrize("way", ways().split() if MAKE else [])
def test_processor_can_be_selected_by_variable(run, way):
    assert f"make test with WAY={way}" in run(WAY=way).stdout


def test_unknown_processor_is_rejected_with_known_ones():
    command = [MAKE, "ways", "WAY=x87"]
    done = subprocess.run(command, cwd=CHECKOUT, env=OUTSIDE, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"WAY=x87 is none of: {ways().strip()}" in done.stderr
