from __future__ import annotations

import numpy as np
import pytest
import torch
from smalltraining import SIDE, random_split

from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.data.split import Split
from edgeres.errors import DataError
from edgeres.training import feed as feed_module
from edgeres.training.feed import Augment, Feed

PREPROCESS = Preprocess(resize=0, crop=SIDE)


def _feed(split: Split | None = None, batch: int = 5, seed: int = 3, augment: Augment | None = None) -> Feed:
    return Feed(
        split if split is not None else random_split(),
        PREPROCESS,
        augment or Augment(),
        classes=3,
        batch=batch,
        seed=seed,
    )


def _images(feed: Feed, start: int, stop: int) -> list[torch.Tensor]:
    return [images for images, _ in feed.batches(start, stop, lambda epoch: Size.square(SIDE))]


def test_batches_are_the_same_whatever_the_workers_and_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _images(_feed(), 0, 9)
    monkeypatch.setattr(feed_module, "WORKERS", 1)
    alone = _images(_feed(), 0, 9)
    later = _images(_feed(), 6, 9)
    assert all(torch.equal(one, two) for one, two in zip(whole, alone, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(whole[6:], later, strict=True))


def test_an_epoch_shows_images_once_and_the_next_in_another_order() -> None:
    feed = _feed(batch=8, augment=Augment(crop="centre", flip=False))
    whole = {array.pixels.tobytes(): label for array, label in zip(feed.split.images, feed.split.labels, strict=True)}
    epochs = []
    for epoch in range(2):
        batches = list(feed.batches(epoch * feed.steps, (epoch + 1) * feed.steps, lambda epoch: Size.square(SIDE)))
        seen = [(image.numpy().tobytes(), int(label)) for batch in batches for image, label in zip(*batch, strict=True)]
        assert dict(seen) == whole
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_epochs_are_augmented_differently_and_seeds_too() -> None:
    feed, other = _feed(batch=24), _feed(batch=24, seed=4)
    feed.order = other.order = lambda epoch: np.arange(24)  # type: ignore[method-assign]
    first, second = _images(feed, 0, 2)
    assert not torch.equal(first, second)
    assert not torch.equal(first, _images(other, 0, 1)[0])


def test_side_follows_the_epoch() -> None:
    sides = [images.shape[1] for images, _ in _feed(batch=12).batches(0, 4, lambda epoch: Size.square((6, 8)[epoch]))]
    assert sides == [6, 6, 8, 8]


def test_input_is_normalised_as_in_evaluation() -> None:
    feed = _feed(batch=24, augment=Augment(crop="centre", flip=False))
    batch = next(iter(feed.batches(0, 1, lambda epoch: Size.square(SIDE))))
    expected = np.stack([PREPROCESS.apply(feed.split.image(int(index))) for index in feed.order(0)])
    np.testing.assert_allclose(feed.as_input(batch[0]).numpy(), expected, atol=1e-6)


def test_small_splits_make_one_batch_and_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "KEPT_BYTES", 2 * SIDE * SIDE * 3)
    feed = _feed(batch=100)
    assert (feed.batch, feed.steps) == (24, 1)
    assert len(_images(feed, 0, 3)) == 3
    assert len(feed._kept) == 2


@pytest.mark.parametrize(("count", "labels"), [(0, ()), (1, (0,)), (2, (0, -1)), (2, (0, 3))])
def test_splits_that_cannot_be_learnt_from_are_refused(count: int, labels: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"training"):
        _feed(Split("train", random_split().images[:count], labels))


def test_corrupt_image_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = _feed()

    def fail(self: Split, index: int, channels: str) -> None:
        raise DataError(f"image {index} cannot be read")

    monkeypatch.setattr(Split, "image", fail)
    with pytest.raises(DataError, match="cannot be read"):
        _images(feed, 0, 1)
