from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from edgeres.data import split as module
from edgeres.data.content import WholeFile
from edgeres.data.images import ArrayImage, EncodedImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import DataError

PREPROCESS = Preprocess(resize=0, crop=4)


def synthetic(count: int, seed: int = 0) -> Split:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    return Split(
        "s", tuple(ArrayImage(image, f"{i}") for i, image in enumerate(pixels)), tuple(i % 3 for i in range(count))
    )


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (7, 3), (8, 4), (9, 1), (5, 50)])
def test_batches_hold_every_image_once_in_order(count, size):
    split = synthetic(count)
    batches = list(split.batches(PREPROCESS, size))
    assert [len(labels) for _, labels in batches] == [min(size, count - start) for start in range(0, count, size)]
    for images, labels in batches:
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
    rows = [row for images, _ in batches for row in images]
    assert [label for _, labels in batches for label in labels] == list(split.labels)
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(row, PREPROCESS.apply(split.image(index)))


def test_order_survives_images_that_take_longer_than_others():
    class Slow(ArrayImage):
        def decode(self, channels="rgb"):
            time.sleep(0.02)
            return super().decode()

    split = synthetic(12)
    mixed = tuple(Slow(image.pixels, "") if i % 4 == 0 else image for i, image in enumerate(split.images))
    slow, fast = (
        np.concatenate([images for images, _ in each.batches(PREPROCESS, 5)])
        for each in (Split("m", mixed, split.labels), split)
    )
    np.testing.assert_array_equal(slow, fast)


def test_no_more_than_two_batches_are_decoded_ahead():
    decoded = []

    class Counted(ArrayImage):
        def decode(self, channels="rgb"):
            decoded.append(self.where)
            return super().decode()

    split = synthetic(100)
    counted = Split("c", tuple(Counted(image.pixels, image.where) for image in split.images), split.labels)
    batches = counted.batches(PREPROCESS, 5)
    next(batches)
    time.sleep(0.2)
    assert 5 <= len(decoded) <= 10
    batches.close()


def test_abandoned_iteration_decodes_no_further_and_leaves_no_thread_behind(monkeypatch):
    """Images of the second batch wait until the pool is shut down, and only those that wait are finished."""
    decoded, ending = [], threading.Event()

    class Waiting(ArrayImage):
        def decode(self, channels="rgb"):
            if int(self.where) >= 40:
                ending.wait()
            decoded.append(self.where)
            return super().decode()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            ending.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
    split = synthetic(80)
    batches = Split("s", tuple(Waiting(image.pixels, image.where) for image in split.images), split.labels).batches(
        PREPROCESS, 40
    )
    next(batches)
    batches.close()
    assert len(decoded) <= 40 + module.WORKERS
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_truncated_jpeg_is_named_and_the_batches_before_it_arrive(tmp_path):
    images = []
    for index in range(5):
        path = tmp_path / f"{index}.jpg"
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        images.append(EncodedImage.probe(WholeFile(path)))
        if index == 3:
            path.write_bytes(path.read_bytes()[:-900])
    batches = Split("t", tuple(images), (0,) * 5).batches(Preprocess(resize=32, crop=32), 2)
    assert next(batches)[0].shape == (2, 3, 32, 32)
    with pytest.raises(DataError, match=r"3\.jpg cannot be read: .*truncated"):
        next(batches)


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp"])
def test_a_file_that_was_cut_short_is_refused_when_it_is_opened(tmp_path, kind):
    path = tmp_path / f"short.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    EncodedImage.probe(WholeFile(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"short\.{kind} (is cut short|cannot be read)"):
        EncodedImage.probe(WholeFile(path))


def test_digest_is_sha256_of_the_canonical_pairs():
    split = synthetic(2)
    a, b = split.hashes
    assert split.digest == hashlib.sha256(f'[["{a}",0],["{b}",1]]'.encode()).hexdigest()


def test_digest_covers_order_labels_and_content_but_not_name():
    split = synthetic(4)
    assert split.take(range(4), "other").digest == split.digest
    assert split.take([1, 0, 2, 3]).digest != split.digest
    assert split.take([0, 1, 2]).digest != split.digest
    assert Split("s", split.images, (0, 0, 0, 0)).digest != split.digest
    assert synthetic(4, seed=1).digest != split.digest


def test_take_keeps_images_and_labels_together():
    split = synthetic(9)
    taken = split.take([8, 2], "pair")
    assert (taken.name, len(taken), taken.labels) == ("pair", 2, (2, 2))
    assert taken.hashes == (split.hashes[8], split.hashes[2])
    np.testing.assert_array_equal(np.asarray(taken.image(0)), np.asarray(split.image(8)))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 images, 1 labels"):
        Split("s", synthetic(2).images, (0,))


def test_empty_batches_are_refused():
    with pytest.raises(ValueError, match="batches of 0 images"):
        next(synthetic(2).batches(PREPROCESS, 0))


def test_hash_all_reports_every_image():
    from contextlib import contextmanager

    seen = []

    class Watching:
        @contextmanager
        def task(self, label, total):
            seen.append((label, total))
            yield seen.append

    assert len(synthetic(3).hash_all(Watching())) == 3
    assert seen == [("hash the s images", 3), 1, 1, 1]


def test_an_image_the_transform_cannot_take_is_named():
    elongated = ArrayImage(np.zeros((1, 50_000), dtype=np.uint8), "folder/line.png")
    with pytest.raises(DataError, match=r"^folder/line\.png: an image of 50000x1 pixels would grow"):
        list(Split("s", (elongated,), (0,)).batches(Preprocess()))
