"""``predictions.json``: the same bytes for the same answers, and images matched by content."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.errors import UsageError
from edgeres.gate.predictions import Answers, decode, encode, shared
from edgeres.settings import digest


def answers(names, labels=None, after=None):
    labels = labels or [0] * len(names)
    hashes = [digest(name) for name in names]
    return Answers.of("d" * 64, hashes, labels, labels, after or labels)


@given(st.lists(st.tuples(st.text(), st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=20))
def test_predictions_round_trip(rows):
    names, labels, after = zip(*rows, strict=True)
    given_answers = answers(names, labels, after)
    text = encode(given_answers)
    assert decode(text.decode(), "here") == given_answers
    assert encode(decode(text.decode(), "here")) == text


def test_predictions_json_has_one_column_per_line():
    text = encode(answers("ab")).decode()
    assert len(text.splitlines()) == 8
    assert digest("a")[:16] in text
    assert digest("a")[:17] not in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", "Answers"),
        ('{"images": "", "hashes": [], "labels": [], "float_predictions": [], "deployed_predictions": []}', "columns"),
        (
            '{"images": "", "hashes": ["a"], "labels": [], "float_predictions": [], "deployed_predictions": []}',
            "columns",
        ),
        ('{"schema": "edgeres.predictions/9"}', "schema"),
    ],
)
def test_decode_rejects_invalid_predictions(text, words):
    with pytest.raises(UsageError, match=words):
        decode(text, "predictions.json")


def test_shared_images_match_by_content_in_any_order():
    ours, theirs = answers("abcd", [0, 1, 2, 3]), answers("dxcb", [3, 9, 2, 1])
    assert shared(ours, theirs) == [(1, 3), (2, 2), (3, 0)]


def test_duplicate_images_match_one_to_one():
    assert shared(answers("aab"), answers("aba")) == [(0, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize(("theirs", "count"), [("cdxyz", "2 of 5"), ("abcdefghi", "4 of 9")])
def test_too_few_shared_images_are_rejected_with_count(theirs, count):
    with pytest.raises(UsageError, match=f"only {count} images"):
        shared(answers("abcd"), answers(theirs))


def test_half_of_images_shared_is_accepted():
    assert len(shared(answers("abcd"), answers("cdxy"))) == 2


def test_different_labels_are_rejected():
    ours = answers("abcd", [0, 1, 2, 3])
    with pytest.raises(UsageError, match="2 of 4 shared images have another label"):
        shared(ours, replace(ours, labels=(0, 1, 3, 2)))
