import numpy as np
import pytest

from edgeres.model.weights import Weights

SOME = {"b": np.arange(6, dtype=np.float64).reshape(2, 3), "a": np.ones(2, dtype=np.float32)}


def test_values_are_copied_frozen_and_float32():
    given = {key: value.copy() for key, value in SOME.items()}
    weights = Weights(given)
    given["a"][0] = 5
    assert weights["a"].tolist() == [1, 1]
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    with pytest.raises(ValueError, match="read-only"):
        weights["b"][0, 0] = 1
    assert list(weights) == ["a", "b"]


def test_digest_covers_keys_shapes_and_bytes():
    digest = Weights(SOME).digest
    assert digest == Weights(dict(reversed(SOME.items()))).digest
    assert digest != Weights({**SOME, "a": np.zeros(2)}).digest
    assert digest != Weights({**SOME, "b": SOME["b"].reshape(3, 2)}).digest
    assert digest != Weights({"c": SOME["b"], "a": SOME["a"]}).digest


def test_replacing_leaves_the_original_alone():
    weights = Weights(SOME)
    digest = weights.digest
    changed = weights.replaced({"a": np.zeros(2)})
    assert changed["a"].tolist() == [0, 0]
    assert weights["a"].tolist() == [1, 1]
    assert weights.digest == Weights(SOME).digest == digest


def test_files_come_back_and_are_the_same_bytes(tmp_path):
    Weights(SOME).save(tmp_path / "a")
    Weights(SOME).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert Weights.load(tmp_path / "a").digest == Weights(SOME).digest
