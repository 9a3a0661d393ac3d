"""The report as people see it, in a real browser: on a phone and a desk, in light and dark, and in a pull request."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from example_run import evil, full, jetson, stopped, x86
from markdown_it import MarkdownIt

from edgeres.artifacts.results import StageMetrics
from edgeres.report.html import html
from edgeres.report.markdown import markdown

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here to look at pages with: apt install chromium"
)

PHONE, DESK = (390, 844), (1280, 900)
RUNS = {"full": full, "evil": evil, "jetson": jetson, "failed": lambda: x86(1.4), "stopped": stopped}
ALL = [(*screen, scheme) for screen in (PHONE, DESK) for scheme in ("light", "dark")]
SCREENS = [
    *((name, *screen) for name in ("full", "evil") for screen in (*ALL, (320, 700, "light"), (768, 1024, "dark"))),
    *((name, *screen) for name in ("jetson", "failed", "stopped") for screen in ((*PHONE, "light"), (*DESK, "dark"))),
]
PROBE = (Path(__file__).parent / "probe.js").read_text(encoding="utf-8")
VIEWPORT = "<meta name='viewport' content='width=device-width, initial-scale=1'>"
SECTIONS = 11


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert CHROMIUM, "continuous integration needs chromium: .ci/run installs it"
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def pages():
    return {name: html(make()) for name, make in RUNS.items()}


def seen(browser, page, width, height, scheme):
    """What the probe finds on a screen."""
    browser.screen(width, height, scheme)
    browser.show(page)
    return browser.ask(PROBE)


@pytest.mark.parametrize(("name", "width", "height", "scheme"), SCREENS)
def test_page_has_no_clipped_overlapping_or_low_contrast_text(browser, pages, name, width, height, scheme):
    found = seen(browser, pages[name], width, height, scheme)
    assert found["width"] == width
    assert found["page"] == width, "the page scrolls sideways"
    defects = ("wide", "cut", "overlapping", "faint", *(("tiny",) if width >= PHONE[0] else ()))
    assert {defect: found[defect] for defect in defects if found[defect]} == {}
    assert all(found["pictures"]), "a picture does not show"
    assert len(found["sections"]) == SECTIONS
    for anchor, left, top, right, bottom in found["sections"]:
        assert bottom - top > 50, anchor
        assert left == pytest.approx(width - right), anchor  # in the middle of the page
    top, bottom = found["badge"]
    assert 0 <= top < bottom <= 0.2 * height, "the verdict is on the first screen"
    assert found["title"] <= 0.75 * height or name == "evil"


@pytest.mark.parametrize(("screen", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_page_pixels(browser, pages, screen, scheme):
    browser.screen(*screen, scheme)
    browser.show(pages["full"])
    found = browser.ask(PROBE)
    pixels = np.asarray(browser.picture(whole=True)).astype(int)
    assert pixels.shape[1] == screen[0]
    ground = pixels[2, 2]
    assert (ground.mean() > 200) if scheme == "light" else (ground.mean() < 60)
    for edge in (pixels[:, :4], pixels[:, -4:]):  # the margin stays free from top to bottom
        assert (edge == ground).all()
    for anchor, *corners in found["sections"]:
        left, top, right, bottom = map(round, corners)
        part = pixels[top:bottom, left:right] @ (1, 256, 65536)
        assert len(np.unique(part)) > 20, f"{anchor} is blank"
    top, bottom = map(round, found["badge"])
    tone = pixels[top:bottom, : screen[0] // 2].reshape(-1, 3)
    green = (tone[:, 1] > tone[:, 0] + 25) & (tone[:, 1] > tone[:, 2] + 10)
    assert green.sum() > 100, "the badge of a passed run is green"


VERDICTS = {"full": "passed", "jetson": "incomplete", "failed": "failed", "stopped": "error"}


def test_verdicts_have_distinct_colours(browser, pages):
    found = {}
    for name, verdict in VERDICTS.items():
        kind, found[verdict] = seen(browser, pages[name], *PHONE, "light")["verdict"]
        assert kind == verdict
    assert found["failed"] == found["error"]
    assert len(set(found.values())) == 3


def test_probe_finds_planted_defects(browser):
    """The probe itself: a page that has every defect once."""
    bad = (
        f"<!DOCTYPE html>{VIEWPORT}<body style='margin:0'><div class='a' style='width:1500px'>wide</div>"
        "<p style='color:#999;background:#fff'>faint</p><p style='font-size:7px'>tiny</p>"
        "<svg viewBox='0 0 100 20' style='width:300px'><text x='90' y='10' font-size='10'>cut off</text>"
        "<text x='5' y='10' font-size='10'>one</text><text x='8' y='10' font-size='10'>other</text></svg>"
    )
    assert seen(browser, bad, *PHONE, "light")["width"] > PHONE[0]  # a phone zooms out until all of it fits
    found = seen(browser, bad, *DESK, "light")
    assert found["page"] == 1500
    for defect, word in (("wide", "wide"), ("faint", "faint"), ("tiny", "tiny"), ("cut", "cut off")):
        assert any(word in each for each in found[defect]), defect
    assert found["overlapping"] == ["text. one / text. other"]


GITHUB = """
body { margin: 0; padding: 16px; color: #1f2328; background: #fff; overflow-wrap: break-word;
  font: 14px/1.5 -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 2em; line-height: 1.25; }
h2 { font-size: 1.5em; border-bottom: 1px solid #d1d9e0b3; padding-bottom: .3em; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse; }
th, td { padding: 6px 13px; border: 1px solid #d1d9e0; }
tr:nth-child(2n) { background: #f6f8fa; }
code { padding: .2em .4em; background: #818b981f; font: 85% ui-monospace, "Liberation Mono", monospace; }
pre { padding: 16px; overflow: auto; background: #f6f8fa; }
pre code { background: none; padding: 0; }
blockquote { margin: 0; padding: 0 1em; border-left: .25em solid #d1d9e0; }
"""


def pull_request(run):
    """The Markdown as a comment: rendered by GitHub's rules as far as a report uses them, in GitHub's measures."""
    body = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown(run))
    return f"<!DOCTYPE html><meta charset='utf-8'>{VIEWPORT}<style>{GITHUB}</style><body>{body}</body>"


LOOK = """(() => ({
  loose: [...document.querySelectorAll('p, li')].map(node => node.textContent).filter(text => /^\\\\s*[|#]/.test(text)),
  tables: [...document.querySelectorAll('table')].map(table => [
    new Set([...table.rows].map(row => row.cells.length)).size, table.rows.length]),
  folded: [...document.querySelectorAll('details')].map(part => [part.firstElementChild.tagName, part.children.length]),
  images: document.images.length, scripts: document.scripts.length, title: document.querySelector('h1').textContent,
  heads: document.querySelectorAll('h2').length,
}))()"""


@pytest.mark.parametrize(("name", "width"), [*((name, PHONE[0]) for name in RUNS), ("full", 1012)])
def test_markdown_renders_in_pull_request(browser, name, width):
    page = pull_request(RUNS[name]())
    found = seen(browser, page, width, 900, "light")
    assert found["page"] == width
    assert {defect: found[defect] for defect in ("wide", "tiny", "faint") if found[defect]} == {}
    drawn = browser.ask(LOOK)
    assert drawn["loose"] == []  # a table or a head that is none
    assert drawn["heads"] == 11
    assert (drawn["images"], drawn["scripts"]) == (0, 0)
    assert all(rows > 1 and kinds == 1 for kinds, rows in drawn["tables"])
    assert all(first == "SUMMARY" and parts > 1 for first, parts in drawn["folded"])
    if name == "full":
        assert len(drawn["tables"]) == 9
        assert [part[0] for part in drawn["folded"]] == ["SUMMARY"] * 4


CLIPPED = (
    "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    ".map(e => e.getAttribute('aria-label'))"
)
HOLE = (
    "(() => { const list = document.querySelector('.budget'), last = list.lastElementChild;"
    "return list.getBoundingClientRect().right - last.getBoundingClientRect().right })()"
)


def expected(run):
    """The run with latencies that nobody measured and a verdict in the widest word, for every candidate."""
    metrics = StageMetrics(expected_ms={"float32": 0.728, "int8": 0.484, "mixed_precision": 0.5})
    stages = tuple(
        replace(
            row,
            metrics=metrics,
            techniques=tuple(replace(technique, verdict="INCONCLUSIVE") for technique in row.techniques),
        )
        if row.techniques
        else row
        for row in run.stages
    )
    timings = tuple(
        replace(time, timings={part: s for part, s in time.timings.items() if not part.startswith("latency")})
        for time in run.timings.stages
    )
    return replace(run, stages=stages, timings=replace(run.timings, stages=timings))


def test_every_column_fits_desktop_screen(browser):
    page = html(expected(full()))
    assert "Latency (expected)" in page
    browser.screen(*DESK, "light")
    browser.show(page)
    assert browser.ask(CLIPPED) == []


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_budget_cards_fill_row(browser, lines):
    run = jetson()
    shown = replace(run, lines=run.lines[: lines - 1])
    assert len(shown.every_line) == lines
    browser.screen(*DESK, "light")
    browser.show(html(shown))
    assert abs(browser.ask(HOLE)) < 1
