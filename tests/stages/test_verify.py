"""How sure a network is of its answer."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeres.tasks.kinds.classification import Classification

LOGITS = arrays.arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32))


def test_confidence_by_hand():
    logits = np.array([[0, 0, 0, 0], [math.log(3), 0, -100, -100], [1e4, -1e4, 0, 0]], dtype=np.float32)
    assert Classification().confidences(logits).tolist() == pytest.approx([0.25, 0.75, 1.0], abs=1e-7)


@given(LOGITS, st.floats(-1e3, 1e3))
def test_it_is_a_share_that_no_shift_changes(logits, shift):
    found = Classification().confidences(logits)
    assert ((found >= 1 / 5 - 1e-12) & (found <= 1)).all()
    assert Classification().confidences(logits + np.float64(shift)) == pytest.approx(found, rel=1e-6)
