"""The page and the Markdown: complete, escaped, self-contained, deterministic, and honest about what is unmeasured."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from example_run import SAMPLE, TARGETS_OF_EVIL, evil, jetson, stopped, x86
from hypothesis import given
from hypothesis import strategies as st

from edgeres.report.html import html
from edgeres.report.markdown import block, code, markdown, prose
from edgeres.report.markup import tag, text
from edgeres.report.select import FLIPS_SHOWN, worst_first
from edgeres.runs.run import Run

RUNS = {"jetson": jetson, "x86": x86, "failed": lambda: x86(1.4), "stopped": stopped, "evil": evil}
SECTIONS = (
    "budget",
    "stages",
    "recovery",
    "accuracy",
    "speed",
    "integers",
    "confusion",
    "flips",
    "calibration",
    "provenance",
    "reproduce",
)


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]()


def tree(run: Run) -> ET.Element:
    return ET.fromstring(html(run).removeprefix("<!DOCTYPE html>\n"))


def words(node: ET.Element) -> str:
    return " ".join("".join(node.itertext()).split())


def test_page_is_well_formed_with_sections_in_order(run: Run) -> None:
    page = tree(run)
    assert [node.get("id") for node in page.iter("section")] == list(SECTIONS)
    links = [node.get("href") for node in page.iter("a")]
    assert links == [f"#{anchor}" for anchor in SECTIONS]
    assert len(list(page.iter("h1"))) == 1


def test_html_parser_sees_same_elements_as_xml(run: Run) -> None:
    class Names(HTMLParser):
        seen: list[str]

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.seen.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            self.seen.append(tag)

    parser = Names()
    parser.seen = []
    parser.feed(html(run))
    assert parser.seen == [node.tag.lower() for node in tree(run).iter()]


def test_page_has_no_scripts_and_no_external_resources(run: Run) -> None:
    page = tree(run)
    names = {node.tag for node in page.iter()}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for node in page.iter():
        for key, value in node.attrib.items():
            assert not key.startswith("on")
            if key in ("src", "href"):
                assert value.startswith(("data:image/png;base64,", "#"))
    style = "".join(node.text or "" for node in page.iter("style"))
    assert "url(" not in style
    assert "@import" not in style
    policies = [node.get("content") for node in page.iter("meta") if node.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_every_picture_has_text_alternative(run: Run) -> None:
    for picture in tree(run).iter("svg"):
        assert len(picture.attrib["aria-label"]) > 20
        assert picture.attrib["role"] == "img"


def test_equal_runs_give_equal_bytes(run: Run) -> None:
    again = replace(run, files=dict(reversed(run.files.items())))
    assert html(run) == html(again)
    assert markdown(run) == markdown(again)


def lines_of(run: Run) -> list[ET.Element]:
    budget = next(node for node in tree(run).iter("section") if node.get("id") == "budget")
    return list(budget.iter("li"))


def test_unmeasured_lines_are_not_marked_passed(run: Run) -> None:
    drawn = lines_of(run)
    assert len(drawn) == len(run.every_line)
    for line, node in zip(run.every_line, drawn, strict=True):
        assert node.get("class") == line.status
        assert line.status.capitalize() in words(node)
        assert line.how.split()[0] in words(node)
        others = {"passed", "failed", "unmeasured"} - {line.status}
        for part in node.iter():
            assert not others & set((part.get("class") or "").split())
            assert not any(other.capitalize() in (part.text or "") for other in others)


def test_unmeasured_latency_has_reason() -> None:
    page = tree(jetson())
    speed = next(node for node in page.iter("section") if node.get("id") == "speed")
    assert "Unmeasured A Jetson Orin Nano is not here" in words(speed).replace("\u25cb ", "")
    tiles = next(node for node in page.iter("ul") if node.get("class") == "tiles")
    assert "Latency p50unmeasured" in words(tiles)


def test_badge_and_title_carry_the_verdict() -> None:
    ready = "Ready for the device"
    for make, verdict in ((x86, "Passed"), (jetson, ready), (lambda: x86(1.4), "Failed"), (stopped, "Error")):
        page = tree(make())
        badge = next(node for node in page.iter("p") if node.get("class") == "badge")
        assert words(badge).endswith(verdict)
        assert words(next(page.iter("title"))).startswith(f"{verdict}: ")
        assert f"{verdict}: " in markdown(make()).splitlines()[0]


def test_page_shows_figures_of_run() -> None:
    page = words(tree(x86()))
    for figure in (
        "98.33 %",
        "98.70 %",
        "-0.35 to +1.10 pp",
        "23.9 M",
        "7.05 MiB",
        "0.61 ms",
        "20 of 21",
        "2.33 times",
        SAMPLE,
    ):
        assert figure in page
        assert prose(figure) in markdown(x86()).replace("\u00a0", " ")
    assert "540 images do not settle it" in page


def test_failed_stage_shows_place_and_hint() -> None:
    page = words(tree(stopped()))
    assert "Stopped in prune: cannot reach 0.05" in page
    assert "Hint: ask for macs: 0.2 or more" in page
    assert "stopped\u00a0here" in markdown(stopped())
    assert "stopped here" in page


@pytest.mark.parametrize("name", TARGETS_OF_EVIL)
def test_user_names_are_escaped(name: str) -> None:
    page = html(evil())
    assert name not in page or not re.search(r"[<>&\"]", name)
    assert text(name) in page


def test_hostile_names_add_no_element() -> None:
    def elements(run: Run) -> list[str]:
        return [node.tag for node in tree(run).iter()]

    plain = evil(names=tuple(f"class {index}" for index in range(len(TARGETS_OF_EVIL))))
    assert elements(evil()) == elements(plain)


def test_hostile_names_keep_markdown_structure() -> None:
    plain = evil(names=tuple(f"class {index}" for index in range(len(TARGETS_OF_EVIL))))

    def structure(run: Run) -> list[tuple[str, int]]:
        rows = markdown(replace(run, provenance=None)).splitlines()
        return [(row[: row[:1] in "#|->`~"], len(re.findall(r"(?<!\\)\|", row))) for row in rows]

    assert structure(evil()) == structure(plain)
    outside = re.sub(r"(?ms)^(```+)\w*$.*?^\1$|(`+)(?!`).*?(?<!`)\2(?!`)", "", markdown(evil()))
    assert "<script" not in outside
    assert "alert(1)" in outside


@given(st.text(max_size=40))
def test_prose_has_no_markup(value: str) -> None:
    written = prose(value)
    assert "\n" not in written
    assert "<" not in written
    assert not re.search(r"(?<!\\)(\\\\)*[|`*\[\]]", re.sub(r"\\.", "", written))


@given(st.text("`|a \\", max_size=30))
def test_code_spans_are_closed(value: str) -> None:
    written = code(value)
    fence = re.match("`+", written).group()
    assert written.endswith(fence)
    assert fence not in re.findall("`+", written[len(fence) : -len(fence)])
    assert not re.search(r"(?<!\\)\|", written)


@given(st.text("`\na", max_size=30))
def test_code_blocks_are_closed(value: str) -> None:
    first, *inside, last = block(value, "").split("\n")
    assert first == last
    assert not any(row.startswith(first) for row in inside)


@given(st.text(max_size=60))
def test_markup_of_any_text_is_well_formed(value: str) -> None:
    node = ET.fromstring(tag("p", value, title=value))
    assert (node.text or "") == ET.fromstring(f"<p>{text(value)}</p>").text or not value
    assert not list(node)


def test_many_flips_are_truncated_and_counted() -> None:
    base = x86()
    many = tuple(replace(base.flips[0], index=index, thumbnail="") for index in range(300))
    run = replace(base, flips=many)
    shown = [node for node in tree(run).iter("ul") if node.get("class") == "flips"]
    assert sum(len(list(part)) for part in shown) == FLIPS_SHOWN
    assert "300 of 540 images; the worst 24 here" in words(tree(run))
    assert len(markdown(run)) < 65_536


def test_lost_images_come_first() -> None:
    shown = next(node for node in tree(x86()).iter("ul") if node.get("class") == "flips")
    fates = [next(part.text for part in card.iter("span") if "fate" in part.attrib["class"]) for card in shown]
    assert fates == ["lost", "lost", "lost", "gained", "both wrong"]


def test_lost_images_are_sorted_by_float_confidence() -> None:
    base = x86()
    known = {98: 0.61, 318: 0.97, 471: None}
    run = replace(base, flips=tuple(replace(flip, float_confidence=known.get(flip.index, 0.99)) for flip in base.flips))
    assert [flip.index for flip in worst_first(run.flips)] == [318, 98, 471, 84, 377]
    rows = [row for row in markdown(run).splitlines() if re.match(r"\| \d+ \| (lost|gained|both)", row)]
    assert [row.split()[1] for row in rows] == ["318", "98", "471", "84", "377"]
    assert "| eight, 97.0 % | nine, 58.2 % |" in rows[0]
    assert "| one | eight, 42.9 % |" in rows[2]


def test_flip_shows_both_predictions_with_confidence() -> None:
    card = next(node for node in tree(x86()).iter("ul") if node.get("class") == "flips")[0]
    answers = next(node for node in card.iter("div") if node.get("class") == "answers")
    assert [words(side) for side in answers] == ["Floatone 92.8 %", "Deployedeight 42.9 %"]
    assert [side.get("class") for side in answers] == ["right", "wrong"]
    assert [side.find(".//i").get("style") for side in answers] == ["width:92.8%", "width:42.9%"]
    unknown = replace(x86(), flips=(replace(x86().flips[0], float_confidence=None),))
    assert not any(node.get("style") == "width:0.0%" for node in tree(unknown).iter("i"))


def test_markdown_figures_do_not_wrap() -> None:
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in markdown(x86()).splitlines() if row.startswith("| ")}
    assert "| 98.70\u00a0% | 37\u00a0M | 11.2\u00a0M |" in rows["evaluate"]
    assert "23.9\u00a0M | 36.7\u00a0M | closed form, equal to" in rows["MACs"]


def test_provenance_has_code_and_recipe_digests() -> None:
    run = x86()
    for digest in (run.provenance.code, run.files["recipe.lock.yaml"].sha256):
        assert digest in html(run)
    assert run.provenance.code in markdown(run)
    assert "2 cores" in html(run)


def test_confusion_matrix_of_thousand_classes_is_listed() -> None:
    classes = tuple(f"n{index:08d}" for index in range(1000))
    run = replace(x86(), confusion=replace(x86().confusion, classes=classes))
    section = next(node for node in tree(run).iter("section") if node.get("id") == "confusion")
    assert not list(section.iter("svg"))
    assert "1,000 classes are too many to draw" in words(section)
    assert "n00000008" in words(section)
