"""What people read of a parity study."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from edgeres.parity.result import Depth, Pair, Parity, RuntimeRow
from edgeres.report import parity
from edgeres.report.svg import standalone


def depth(tensor, sqnr, unexplained=0):
    nodes = ("conv2", "add", tensor) if tensor == "relu" else (tensor,)
    return Depth(tensor=tensor, nodes=nodes, numbers=1000, sqnr_db=sqnr, differing=7, alone=3, steps=1,
                 farthest=2.5e-6, unexplained=unexplained)  # fmt: skip


def row(name, *depths, **more):
    return RuntimeRow(
        name=name, title=name.upper(), top1=80.0, biases="float" if depths else None, depths=depths, **more
    )


@pytest.fixture
def found():
    good = row("good", depth("image", None), depth("relu", None), depth("logits", None))
    bad = row("bad", depth("image", 80.0), depth("relu", 20.0, 2), depth("logits", 10.0, 1))
    names = ("exact", "good", "bad")
    pairs = [Pair(first=a, second=b, agreement=100.0, differing=0) for a, b in (names[:2], names[::2], names[1:])]
    pairs[1] = replace(pairs[1], agreement=99.8, differing=2, margin=0.01, rank=0.4)
    return Parity(model="<net>", target="x86", images=1000, shown=2, wanted=99.9, runtimes=(row("exact"), good, bad),
                  pairs=tuple(pairs), absent={"litert": "not installed"}, float_nodes=("fc",))  # fmt: skip


def only(found, *names):
    pairs = tuple(pair for pair in found.pairs if {pair.first, pair.second} <= set(names))
    return replace(found, runtimes=tuple(row for row in found.runtimes if row.name in names), pairs=pairs)


def test_parity_verdict_names_worst_pair_and_first_diverging_layer(found):
    sentences = parity.verdict(found)
    assert sentences.startswith(
        "FAIL: 3 runtimes, 1,000 images: the least agreement is 99.80 %, of EXACT and BAD (2 answered"
    )
    assert sentences.endswith("BAD diverges first at relu (with conv2, add)")
    assert "float32 rounding explains" in parity.verdict(only(found, "exact", "good"))
    assert parity.verdict(replace(found, wanted=99.8)).startswith("PASS")


def test_parity_cells_and_footnotes_name_unavailable_runtimes(found):
    rows = parity.cells(found)
    assert rows[0] == ("EXACT", "-", "-", "80.00 %", "99.80 % BAD", "-", "-")
    assert rows[1][5:] == ("6 of 2,000", "2.5e-06 steps")
    assert "not available: litert: not installed" in parity.footnotes(found)


def test_parity_page_and_plot_are_well_formed_and_escaped(found):
    page = parity.html(found)
    ElementTree.fromstring(page.partition("\n")[2])
    assert "&lt;net&gt;" in page
    plot = ElementTree.fromstring(standalone(parity.growth_plot(found)))
    large = [mark for mark in plot.iter("{http://www.w3.org/2000/svg}circle") if mark.get("r") == "6"]
    assert len(large) == 1
    assert "BAD, relu: 20.0 dB" in "".join(large[0].itertext())
    bare = replace(found, runtimes=tuple(replace(row, depths=()) for row in found.runtimes))
    assert "Growth" not in parity.html(bare)
    ElementTree.fromstring(parity.html(bare).partition("\n")[2])
