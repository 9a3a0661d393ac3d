"""One module per command: discovery, order, and imports of ``--help``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeres
from edgeres import cli

ALONE = {**os.environ, "PYTHONPATH": str(Path(edgeres.__file__).parent.parent)}
SLOW_TO_IMPORT = ("dataclasses", "numpy", "onnx", "pydantic", "rich", "tempfile", "yaml")


TOY = """
PLACE = 15

def add_parser(commands):
    command = commands.add_parser("toy", help="a toy")
    command.add_argument("--count", type=int, default=7)

def run(options, screen):
    screen.out.out(f"{options.count} {options.words}")
    return options.count
"""


def test_command_is_added_by_one_file(monkeypatch, tmp_path, capsys):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    assert cli.main(["toy", "--count", "9"]) == 9
    assert capsys.readouterr().out == "9 ['toy', '--count', '9']\n"
    assert list(cli.commands())[:3] == ["compile", "toy", "train"]
    assert "a toy" in cli.parser().format_help()


def test_every_module_without_underscore_adds_the_command_of_its_name():
    parser = cli.parser()
    choices = next(action.choices for action in parser._actions if action.dest == "command")
    modules = {path.stem for path in Path(cli.__file__).parent.glob("[!_]*.py")}
    assert list(choices) == list(cli.commands())
    assert set(choices) == modules
    assert len({command.PLACE for command in cli.commands().values()}) == len(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["compile", "--help"], []])
def test_help_imports_no_library(arguments):
    code = (
        "import json, sys; from edgeres.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"print(json.dumps(sorted(set({SLOW_TO_IMPORT!r}) & set(sys.modules))))"
    )
    call = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(call, env=ALONE, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "rich" not in loaded
    if arguments != ["compile", "--help"]:  # its help lists the budgets, which are a dataclass read from YAML
        assert loaded == []
