"""The corpus in small: our graphs and their mutants, without other people's tools."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import command
from benchmarks.corpus import CorpusRow, Engine, as_tensorrt_reads, ask, judge, main, misreading, report, rows
from benchmarks.draft import Draft
from benchmarks.foreign_graphs import Absent, modelopt
from benchmarks.rules import MARKERS, rules
from benchmarks.subjects import ours
from benchmarks.table import with_block
from edgeres.targets.target import find_target

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def found() -> list[CorpusRow]:
    return list(rows(foreign=False))


def test_lint_and_tensorrt_rtx_agree(found: list[CorpusRow]) -> None:
    assert [row for row in found if row.agreement != "agree"] == []
    assert {row.engine.truth for row in found} == {"right", "refused", "misread"}
    assert len(found) > 40


def test_the_matrix_counts_every_graph(found: list[CorpusRow]) -> None:
    text = report(found)
    assert f"{len(found)} graphs: " in text
    assert "0 (missed)" in text
    assert "0 (false alarms)" in text


def test_a_disagreement_is_counted_and_told() -> None:
    missed = CorpusRow("t", "a", (), (), Engine("refused", "no"))
    false = CorpusRow("t", "b", ("Q01",), (), Engine("right", "builds"))
    assert (missed.agreement, false.agreement) == ("missed", "false alarm")
    assert "1 (missed)" in report([missed])
    assert "1 (false alarms)" in report([false])


def test_uint8_is_read_as_int8() -> None:
    base = ours(find_target("jetson"))
    assert as_tensorrt_reads(base) is None
    draft = Draft(base)
    draft.put("layer1.0.relu1.zero_point", np.array(0, np.uint8))
    scale = draft.value("layer1.0.relu1.scale")
    assert misreading(draft.model) == 0  # no value beyond 127 steps: nothing is clipped
    draft.put("layer1.0.relu1.scale", np.asarray(scale * 127 / 255, np.float32))
    assert misreading(draft.model) > 0.005
    assert ask(draft.model).truth == "misread"
    assert judge("t", "t", draft.model).agreement == "agree"


def test_an_absent_tool_is_a_row_with_its_pip_line(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="pip install nvidia-modelopt"):
        modelopt("/bin/false").make(tmp_path)


def test_the_document_has_the_rules_as_they_are() -> None:
    document = (command.CHECKOUT / "docs" / "lint.md").read_text(encoding="utf-8")
    assert with_block(document, rules(), MARKERS) == document


def test_the_document_keeps_a_corpus_without_disagreement() -> None:
    document = (command.CHECKOUT / "docs" / "lint.md").read_text(encoding="utf-8")
    assert "0 (missed)" in document
    assert "0 (false alarms)" in document
    assert "NNCF" in document


def test_the_command_has_a_help(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--modelopt" in capsys.readouterr().out
