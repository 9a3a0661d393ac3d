"""One module per command: what the list of commands promises."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import edgeres
from edgeres import cli

ALONE = {**os.environ, "PYTHONPATH": str(Path(edgeres.__file__).parent.parent)}
SLOW_TO_IMPORT = ("dataclasses", "numpy", "onnx", "pydantic", "rich", "tempfile", "yaml")


def test_command_is_one_module_in_the_list(monkeypatch, capsys):
    def run(options, screen, arguments):
        screen.out.out(f"{options.count} {arguments}")
        return options.count

    def add_parser(commands):
        command = commands.add_parser("toy", help="a toy")
        command.set_defaults(function=run)
        command.add_argument("--count", type=int, default=7)

    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, SimpleNamespace(add_parser=add_parser)))
    assert cli.main(["toy", "--count", "9"]) == 9
    assert capsys.readouterr().out == "9 ['toy', '--count', '9']\n"


def test_each_module_adds_the_command_of_its_name():
    parser = cli.parser()
    choices = next(action.choices for action in parser._actions if action.dest == "command")
    assert [module.__name__.rpartition(".")[2] for module in cli.COMMANDS] == list(choices)


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
