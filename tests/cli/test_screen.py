"""Text on a terminal is wrapped between words at its width; in a log every line is whole."""

import io
import shlex

import pytest
from rich.console import Console

from edgeres.cli._console import Screen, _print
from edgeres.report.next_steps import NextStep

TEXT = (
    "Incomplete: resnet18 for jetson-orin-nano keeps 2 of 3 budget lines; unmeasured: latency p50 (predicted to fail). "
    "edgeres measured /a/very/long/folder/that/is/wider/than/any/terminal/which/anyone/may/have/here/resnet18-jetson "
    "device.json"
)


def printed(width, *, terminal=True, text=TEXT, indent=4):
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=terminal, color_system=None, highlight=False, soft_wrap=True
    )
    _print(console, text, indent)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_word_is_broken_and_no_line_is_wider_than_the_terminal(width):
    lines = printed(width)
    assert " ".join(" ".join(lines).split()) == TEXT
    for line in lines:
        assert len(line) <= width or len(line.split()) == 1, "only a word wider than the terminal sticks out"
    assert all(line.startswith("    ") for line in lines[1:])


def test_a_log_has_whole_lines():
    assert printed(80, terminal=False) == [TEXT]


def test_markup_of_others_is_text():
    assert printed(80, text="[bold]x[/bold] [a.jpg]") == ["[bold]x[/bold] [a.jpg]"]


HEADS = ("target", "what", "missing here")
ROWS = [("jetson-orin-nano", "Jetson Orin Nano 8GB, JetPack 6.2, TensorRT 10.3", "-"), ("cpu", "any CPU", "nothing")]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 140])
def test_a_table_breaks_no_word(width):
    screen, stream = Screen(quiet=False), io.StringIO()
    screen.out = Console(
        file=stream, width=width, force_terminal=True, color_system=None, highlight=False, soft_wrap=True
    )
    screen.table(HEADS, ROWS)
    text = stream.getvalue()
    words = {word for row in ROWS for cell in row for word in cell.split()} - {"-"}
    assert words <= set(text.split())
    assert max(map(len, text.splitlines())) <= width


LONG = (
    "edgeres compile resnet18 --target TARGET --weights 'build/my runs/resnet18-trained/weights.safetensors' --data d"
)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_command_that_does_not_fit_is_broken_so_that_a_shell_still_reads_it_whole(width):
    screen, stream = Screen(quiet=False), io.StringIO()
    screen.out = Console(
        file=stream, width=width, force_terminal=True, color_system=None, highlight=False, soft_wrap=True
    )
    screen.step("next: compile  ", NextStep("compile", LONG, "'edgeres targets' lists targets", command=True))
    text = stream.getvalue()
    widest = max(len(word) for word in shlex.split(LONG, posix=False))
    assert max(map(len, text.splitlines())) <= max(width, widest + 6)
    read = shlex.split(text.replace("next: compile", "", 1).replace("\\\n", ""), comments=True)
    assert read == shlex.split(LONG)
    assert "# 'edgeres targets' lists targets" in text


def test_what_stands_below_a_budget_line_keeps_its_column():
    lines = printed(60, text=f"{' ' * 12}{TEXT}", indent=12)
    assert len(lines) > 3
    assert all(line.startswith(" " * 12) and line[12] != " " for line in lines)
