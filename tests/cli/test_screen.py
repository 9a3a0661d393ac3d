"""Text on a terminal is wrapped between words at its width; in a log every line is whole."""

import io

import pytest
from rich.console import Console

from edgeres.cli.console import Screen, _print

TEXT = (
    "Incomplete: resnet18 for jetson-orin-nano keeps 2 of 3 budget lines; unmeasured: latency p50 (predicted to fail). "
    "edgeres measured /a/very/long/folder/that/is/wider/than/any/terminal/which/somebody/may/have/here/resnet18-jetson "
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
