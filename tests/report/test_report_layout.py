"""No page is wider than its screen: read off the style sheet always, and measured in Chromium where there is one."""

import html as markup
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from example_run import evil, jetson, stopped, x86

from edgeres.report.html import html

RUNS = {"jetson": jetson, "x86": x86, "stopped": stopped, "evil": evil}
WIDTHS = (320, 360, 390, 768, 1280)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.parametrize("name", RUNS)
def test_everything_wide_has_its_own_container(name: str) -> None:
    page = ET.fromstring(html(RUNS[name]()).removeprefix("<!DOCTYPE html>\n"))
    parents = {child: parent for parent in page.iter() for child in parent}
    for table in page.iter("table"):
        assert parents[table].get("class") == "scroll"
        assert parents[table].get("tabindex") == "0"
    for picture in page.iter("svg"):
        assert picture.get("class") == "plot"
        assert "width" not in picture.attrib


def test_style_sheet_has_no_width_a_phone_has_not() -> None:
    style = re.search(r"<style>(.*?)</style>", html(jetson()), re.DOTALL).group(1)
    rules: dict[str, str] = {}
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style):
        rules[selector.strip()] = rules.get(selector.strip(), "") + body
    assert "overflow-x: auto" in rules[".scroll"]
    assert "overflow-x: auto" in rules["pre"]
    assert "overflow-x: auto" in rules["nav"]
    assert "width: 100%" in rules[".plot"]
    assert "overflow-wrap: anywhere" in rules["body"]
    assert "prefers-color-scheme: dark" in style
    for body in rules.values():
        for width in re.findall(r"(?<![-\w])(?:min-)?width:\s*(\d+)px", body):
            assert int(width) <= 300


MEASURE = """
const wide = (page, width) => [...page.querySelectorAll('body *')].filter(node => {
  const inside = node.closest('.scroll, nav, pre');
  return (!inside || inside === node) && node.getBoundingClientRect().right > width + 0.5;
}).map(node => node.tagName + '.' + node.getAttribute('class'));
const cut = page => [...page.querySelectorAll('svg text')].filter(node => {
  const text = node.getBoundingClientRect(), picture = node.closest('svg').getBoundingClientRect();
  return text.left < picture.left - 1 || text.right > picture.right + 1 || text.top < picture.top - 1
    || text.bottom > picture.bottom + 1;
}).map(node => node.textContent);
addEventListener('load', () => {
  const found = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument;
    page.querySelectorAll('details').forEach(part => { part.open = true; });
    return {name: frame.name, viewport: frame.contentWindow.innerWidth, page: page.documentElement.scrollWidth,
            wide: wide(page, frame.contentWindow.innerWidth), cut: cut(page), height: page.body.scrollHeight};
  });
  document.body.textContent = 'MEASURED' + JSON.stringify(found) + 'MEASURED';
});
"""


def measured(folder: Path) -> list[dict[str, object]]:
    pages = {name: markup.escape(html(make())) for name, make in RUNS.items()}
    frames = "".join(
        f'<iframe name="{name} {width}" style="border:0;width:{width}px;height:800px" srcdoc="{page}"></iframe>'
        for name, page in pages.items()
        for width in WIDTHS
    )
    harness = folder / "harness.html"
    harness.write_text(
        f"<!DOCTYPE html><meta charset='utf-8'><body>{frames}<script>{MEASURE}</script></body>", encoding="utf-8"
    )
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    offline = [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
    ]
    call = [str(CHROMIUM), *quiet, *offline, "--window-size=1400,900", "--dump-dom", harness.as_uri()]
    dumped = subprocess.run(call, capture_output=True, text=True, check=True, timeout=120).stdout
    found: list[dict[str, object]] = json.loads(markup.unescape(dumped.split("MEASURED")[1]))
    return found


if CHROMIUM:

    def test_no_element_leaves_the_screen_in_a_browser(tmp_path: Path) -> None:
        found = measured(tmp_path)
        assert [frame["viewport"] for frame in found] == list(WIDTHS) * len(RUNS)
        assert {frame["name"]: frame["wide"] for frame in found if frame["wide"]} == {}
        assert {frame["name"]: frame["page"] for frame in found if frame["page"] != frame["viewport"]} == {}
        assert {frame["name"]: frame["cut"] for frame in found if frame["cut"]} == {}
        assert all(int(str(frame["height"])) > 1000 for frame in found)
