"""No page is wider than its screen, as far as the style sheet tells; ``test_report_screens`` looks at real screens."""

import re
import xml.etree.ElementTree as ET

import pytest
from example_run import evil, full, jetson, stopped, x86

from edgeres.report.html import html

RUNS = {"full": full, "jetson": jetson, "x86": x86, "stopped": stopped, "evil": evil}


@pytest.mark.parametrize("name", RUNS)
def test_wide_elements_are_in_scrolling_containers(name: str) -> None:
    page = ET.fromstring(html(RUNS[name]()).removeprefix("<!DOCTYPE html>\n"))
    parents = {child: parent for parent in page.iter() for child in parent}
    for table in page.iter("table"):
        assert parents[table].get("class") == "scroll"
        assert parents[table].get("tabindex") == "0"
    for picture in page.iter("svg"):
        assert picture.get("class") == "plot"
        assert "width" not in picture.attrib


def test_style_sheet_has_no_width_above_phone() -> None:
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
