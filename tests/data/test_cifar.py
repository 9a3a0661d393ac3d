from __future__ import annotations

import pickle

import numpy as np
import pytest

from edgeres.data.dataset import open_dataset
from edgeres.data.sources.cifar import CIFAR, CIFAR_CLASSES, CIFAR_PIXELS, read_cifar
from edgeres.errors import DataError
from edgeres.progress import Silent


def batch(path, count, seed):
    """Writes records and returns labels and planes."""
    records = np.random.default_rng(seed).integers(0, 256, (count, (1 + CIFAR_PIXELS)), dtype=np.uint8)
    records[:, 0] = np.arange(count) % 10
    path.write_bytes(records.tobytes())
    return records[:, 0], records[:, 1:].reshape(count, 3, 32, 32)


def test_reads_labels_and_planes_in_order(tmp_path):
    batches = [batch(tmp_path / f"data_batch_{number}.bin", 20, number) for number in (1, 2)]
    labels, planes = batch(tmp_path / "test_batch.bin", 10, 9)
    found = read_cifar(tmp_path, Silent())
    assert found.classes == CIFAR_CLASSES
    assert found.train.labels == tuple(np.concatenate([labels for labels, _ in batches]).tolist())
    assert found.validation.labels == tuple(labels.tolist())
    for index in range(10):
        np.testing.assert_array_equal(np.asarray(found.validation.image(index)).transpose(2, 0, 1), planes[index])
    np.testing.assert_array_equal(np.asarray(found.train.image(25)).transpose(2, 0, 1), batches[1][1][5])


def test_images_stay_on_disk(tmp_path):
    batch(tmp_path / "data_batch_1.bin", 20, 0)
    batch(tmp_path / "test_batch.bin", 20, 1)
    pixels = read_cifar(tmp_path, Silent()).train.images[3].pixels
    assert not pixels.flags.owndata
    base = pixels
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.mode == "r"


def test_opens_as_a_dataset(tmp_path):
    batch(tmp_path / "data_batch_1.bin", 100, 0)
    batch(tmp_path / "test_batch.bin", 20, 1)
    dataset = open_dataset(tmp_path, seed=0, calibration=40, allow=frozenset())
    assert (dataset.name, dataset.suggested) == ("cifar10", CIFAR)
    assert (len(dataset.train), len(dataset.tuning), len(dataset.calibration), len(dataset.validation)) == (
        90,
        10,
        40,
        20,
    )
    images, _ = next(dataset.validation.batches(dataset.suggested))
    expected = np.asarray(dataset.validation.image(0), dtype=np.float64).transpose(2, 0, 1) / 255
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (CIFAR.mean, CIFAR.std))
    np.testing.assert_allclose(images[0], (expected - mean) / std, atol=1e-6)


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_1.mat"])
def test_pickled_version_is_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match=r"never unpickles data: .*cifar-10-binary\.tar\.gz"):
        open_dataset(tmp_path, seed=0, calibration=40, allow=frozenset())


def test_file_that_is_not_whole(tmp_path):
    batch(tmp_path / "data_batch_1.bin", 20, 0)
    batch(tmp_path / "test_batch.bin", 20, 1)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test_batch\.bin has 61459 bytes, not a multiple of 3073"):
        read_cifar(tmp_path, Silent())


def test_missing_file(tmp_path):
    batch(tmp_path / "data_batch_1.bin", 20, 0)
    with pytest.raises(DataError, match=r"test_batch\.bin is missing"):
        read_cifar(tmp_path, Silent())


def test_label_out_of_range(tmp_path):
    batch(tmp_path / "test_batch.bin", 20, 1)
    records = np.zeros((5, (1 + CIFAR_PIXELS)), dtype=np.uint8)
    records[3, 0] = 10
    (tmp_path / "data_batch_1.bin").write_bytes(records.tobytes())
    with pytest.raises(DataError, match=r"data_batch_1\.bin record 3: label 10 of 10 classes"):
        read_cifar(tmp_path, Silent())
