from __future__ import annotations

import pytest

from benchmarks.table import BEGIN, END, HEADING, markdown, with_block
from edgeres.errors import UsageError


def test_a_table_lines_up_and_escapes_bars():
    assert markdown(("name", "ms"), [("a|b", "1.5"), ("long name", "12")]) == (
        "| name      |  ms |\n"
        "| --------- | --: |\n"
        "| a\\|b      | 1.5 |\n"
        "| long name |  12 |"
    )  # fmt: skip


def test_a_table_without_rows_is_its_head():
    assert markdown(("a", "b"), [], words=2) == "| a   | b   |\n| --- | --- |"


def test_a_ragged_row_is_refused():
    with pytest.raises(ValueError, match="2 cells"):
        markdown(("a", "b"), [("1",)])


def test_only_the_block_changes_and_twice_is_once():
    before, after = "# Title\n\ntext\n\n## Numbers\nintro\n", "\n\n## More\nlast line without an end"
    document = f"{before}{BEGIN}\nold | table\n{END}{after}"
    once = with_block(document, "new\n")
    assert once == f"{before}{BEGIN}\nnew\n{END}{after}"
    assert with_block(once, "new") == once


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("", f"{HEADING}\n\n{BEGIN}\nx\n{END}\n"),
        ("# T\n", f"# T\n\n{HEADING}\n\n{BEGIN}\nx\n{END}\n"),
        (f"# T\n\n{HEADING}", f"# T\n\n{HEADING}\n\n{BEGIN}\nx\n{END}\n"),
        (f"# T\n\n{HEADING}\nafter\n", f"# T\n\n{HEADING}\n\n{BEGIN}\nx\n{END}\n\nafter\n"),
        (f"# T\n\n{HEADING}\n\n## Next\n", f"# T\n\n{HEADING}\n\n{BEGIN}\nx\n{END}\n\n## Next\n"),
    ],
)
def test_a_first_block_goes_under_its_heading(document: str, expected: str):
    assert with_block(document, "x") == expected
    assert with_block(expected, "x") == expected


@pytest.mark.parametrize("document", [BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_markers_that_do_not_pair_are_refused(document: str):
    with pytest.raises(UsageError, match="no single pair"):
        with_block(document, "x")
