"""Search of a network's preprocessing, where neither its file nor the user states it.

A network's accuracy depends on the apparent size of objects (Touvron et al. 2019, arXiv 1906.06423), on the
normalisation and on the order of the channels, so customary transforms are evaluated on labelled images that are used
for nothing else. One setting is varied at a time, on 64 images; the best few are compared on all images by paired loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from edgeres.data.size import Size
from edgeres.data.split import round_robin
from edgeres.model.trial import Trial, choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from edgeres.data.preprocess import ChannelOrder, Preprocess
    from edgeres.data.split import Split
    from edgeres.model.spec import ResNetSpec
    from edgeres.progress import Advance

    Answers = Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """Logits ``[N,classes]`` of images ``[N,C,H,W]``."""


class Scaling(NamedTuple):
    """Sizes of the resizing and of the crop."""

    resize: Size
    crop: Size


def _squares(*pairs: tuple[int, int]) -> tuple[Scaling, ...]:
    return tuple(Scaling(Size.square(resize), Size.square(crop)) for resize, crop in pairs)


IMAGES = 256  # most images for one transform
_FIRST = 64  # images on which a transform is screened
_STATED = 32  # images of the screening beside a stated transform that is above chance
_KEPT = 2  # transforms besides the first that are evaluated on all images
_AGAIN = 3  # number of normalisations tried again at a better size, the best at the first
LARGE = _squares((256, 224), (232, 224), (0, 224), (192, 160), (160, 128), (146, 128), (64, 64))
"""Sizes for stems that reduce the resolution: torchvision's V1 and V2, no resize, and small trainings."""

SMALL = _squares((32, 32), (36, 32), (64, 64), (28, 28))
"""Sizes for stems that keep the resolution: CIFAR, with and without a margin, and Tiny ImageNet."""

_FULL, _PART = Size.square(256), Size.square(224)  # resize and crop of ImageNet's customary pair
Values = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of red, green and blue on the scale 0..1, and the channel order."""

    mean: Values
    std: Values
    channels: ChannelOrder = "rgb"


def _even(mean: float, std: float) -> Normalisation:
    return Normalisation((mean,) * 3, (std,) * 3)


_CAFFE: Values = (123.68 / 255, 116.779 / 255, 103.939 / 255)

NORMALISATIONS = (
    Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet, torchvision's
    Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # statistics of CIFAR-10
    _even(0.5, 0.5),  # [-1, 1], TensorFlow's and timm's inception convention
    _even(0, 1),  # [0, 1], without normalisation
    _even(0, 1 / 255),  # 0..255, unscaled pixels
    Normalisation(_CAFFE, (1 / 255,) * 3),  # 0..255 less ImageNet's mean, Caffe's and Keras'
    _even(0.1307, 0.3081),  # statistics of MNIST
)
"""Normalisations in order of frequency; the best one is also tried with reversed channels."""


def normalisations_for(preprocess: Preprocess) -> tuple[Normalisation, ...]:
    """Normalisations for as many channels as a transform has: for other than three its own, then the even ones."""
    if preprocess.count == 3:
        return NORMALISATIONS
    own = Normalisation(preprocess.mean, preprocess.std, preprocess.channels)
    even = (one for one in NORMALISATIONS if len(set(one.mean)) == len(set(one.std)) == 1)
    count = preprocess.count
    return own, *(replace(own, mean=one.mean[:1] * count, std=one.std[:1] * count) for one in even)


@dataclass(frozen=True, slots=True)
class Space:
    """Search space of transforms: sizes, normalisations, reversed channels, EXIF orientation, and stretched images.

    The start is the customary transform, which is kept unless another fits significantly better. A transform is
    screened on the first images.
    """

    start: Preprocess
    sizes: tuple[Scaling, ...] = ()
    normalisations: tuple[Normalisation, ...] = ()
    channels: bool = False
    exif: bool = False
    stretch: bool = False
    screened: int = _FIRST

    @classmethod
    def open(cls, start: Preprocess, sizes: Sequence[Scaling], fields: Iterable[str]) -> Space:
        """The space over the unstated ``fields`` of a transform, which are replaced by the first customary ones."""
        fields = frozenset(fields)
        fitting = tuple(dict.fromkeys(_sizes(start, sizes, fields)))
        stated = {name: getattr(start, name) for name in ("mean", "std", "channels") if name not in fields}
        known = normalisations_for(start)
        normalisations = tuple(dict.fromkeys(replace(one, **stated) for one in known))
        first = _normalised(_sized(start, fitting[0]), normalisations[0])
        stretch = {"resize", "resize_mode"} <= fields
        reversible = "channels" in fields and start.count == 3
        return cls(first, fitting, normalisations, reversible, "exif" in fields, stretch)

    @classmethod
    def around(cls, stated: Trial, sizes: Sequence[Scaling]) -> Space:
        """The space of every customary transform beside a stated one."""
        screened = _FIRST if stated.chance.standing == "at" else _STATED
        own, colour = stated.preprocess, stated.preprocess.count == 3
        return cls(own, tuple(sizes), normalisations_for(own), colour, exif=True, stretch=True, screened=screened)

    def budget(self, images: int) -> int:
        """Most images run through the network by a search, for its progress."""
        images = min(images, IMAGES)
        first = min(self.screened, images)
        normalised = len(self.normalisations) * (1 + self.channels)
        tried = 1 + len(self.sizes) + normalised + _AGAIN + 2 * self.channels + self.exif + self.stretch
        return tried * first + (2 + _KEPT) * (images - first)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best transform, or the start where none is significantly better, and the start on the same images.

    ``trials`` has every transform in order; most are evaluated on the first images only.
    """

    best: Trial
    start: Trial
    trials: tuple[Trial, ...]


def customary(spec: ResNetSpec) -> tuple[Scaling, ...]:
    """Customary sizes for a stem."""
    return LARGE if spec.stem.stride > 1 or spec.stem.pool else SMALL


def customary_for(size: Size | None) -> tuple[Scaling, ...]:
    """Customary sizes for a graph that takes images of one size; None takes any."""
    if size is None:
        return (*LARGE, *SMALL)
    margin = size.scaled(_FULL, _PART)
    margins = [margin, size] if max(size) > 64 else [size, margin]
    known = [resize for resize, crop in (*LARGE, *SMALL) if crop == size]
    return tuple(Scaling(resize, size) for resize in dict.fromkeys([*margins, *known]))


def labelled(split: Split) -> Split:
    """Labelled images of the search, alternating over classes, at most ``IMAGES``."""
    indices = [index for index in round_robin(split.labels, seed=0) if split.labels[index] >= 0]
    return split.take(indices[:IMAGES])


def search(
    answers: Answers, images: Split, space: Space, advance: Advance, started: Trial | None = None
) -> SearchResult:
    """Tries the transforms of a space on ``labelled`` images, one field after the other, and compares the best few.

    ``started`` is the evaluated start of the space, where there is one.
    """
    count = min(space.screened, len(images))
    first, rest = images.take(range(count)), images.take(range(count, len(images)))
    pool: dict[Preprocess, Trial] = {} if started is None else {space.start: started.first(count)}

    def best(transforms: Iterable[Preprocess]) -> Preprocess:
        for one in transforms:
            if one not in pool:
                pool[one] = attempt(answers, first, one, advance)
        return min(pool, key=lambda one: pool[one].mean_loss)

    at = best([space.start, *(_normalised(space.start, one) for one in space.normalisations)])
    able = sorted(pool, key=lambda one: pool[one].mean_loss)[:_AGAIN]
    at = best(_sized(at, size) for size in space.sizes)
    at = best(_sized(one, Scaling(at.resize, at.crop)) for one in able)
    if space.channels:
        reverse: Literal["rgb", "bgr"] = "bgr" if at.channels == "rgb" else "rgb"
        at = best(replace(one, channels=reverse) for one in dict.fromkeys((at, space.start)))
        if at.channels == reverse:
            at = best(replace(_normalised(at, one), channels=reverse) for one in space.normalisations)
    if space.exif and any(image.orientation != 1 for image in images.images):
        at = best([replace(at, exif="apply" if at.exif == "ignore" else "ignore")])
    if (
        space.stretch
        and at.resize_mode == "fit"
        and not all(image.header.width == image.header.height for image in images.images)
    ):
        best([replace(at, resize=at.crop, resize_mode="stretch")])
    if started is not None:
        pool[space.start] = started
    usual = pool[space.start].first(count).mean_loss
    ranked = sorted((one for one in pool if one != space.start), key=lambda one: pool[one].mean_loss)
    able = [one for one in ranked[:_KEPT] if pool[one].mean_loss < usual]
    # The customary size is compared again under the best normalisation.
    sized_as_usual = [_sized(one, Scaling(space.start.resize, space.start.crop)) for one in able[:1]]
    able += [one for one in sized_as_usual if one in pool and one not in (*able, space.start)]
    for one in [space.start] * (started is None) + able if len(rest) else ():
        pool[one] = pool[one].joined(attempt(answers, rest, one, advance))
    whole = [trial for trial in pool.values() if len(trial.labels) == len(images)]
    return SearchResult(choose(whole), pool[space.start], tuple(pool.values()))


def attempt(answers: Answers, images: Split, preprocess: Preprocess, advance: Advance) -> Trial:
    """Logits of a network for images under one transform."""
    logits = []
    for batch, labels in images.batches(preprocess):
        logits.append(answers(batch))
        advance(len(labels))
    return Trial(preprocess, np.concatenate(logits), np.asarray(images.labels, dtype=np.int64))


def _sizes(start: Preprocess, sizes: Sequence[Scaling], fields: frozenset[str]) -> list[Scaling]:
    """Sizes that agree with the stated one, the customary first."""
    resize, crop = start.resize, start.crop
    margin_first = max(sizes[0].resize) > max(sizes[0].crop)
    if "resize" in fields and start.resize_mode != "fit":  # the whole image is the network's input
        return [Scaling(one, one) for one in ((size.crop for size in sizes) if "crop" in fields else (crop,))]
    if {"resize", "crop"} <= fields:
        return list(sizes)
    if "resize" in fields:
        own = [Scaling(crop.scaled(_FULL, _PART), crop), Scaling(crop, crop)]
        return [*(own if margin_first else own[::-1]), *(size for size in sizes if size.crop == crop)]
    if "crop" in fields and start.resizes:
        own = [Scaling(resize, resize.scaled(_PART, _FULL)), Scaling(resize, resize)]
        others = [Scaling(resize, size.crop) for size in sizes if resize.is_square and resize.holds(size.crop)]
        return [*(own if margin_first else own[::-1]), *others] if start.resize_mode == "fit" else own[1:]
    return [Scaling(resize, size.crop) for size in sizes] if "crop" in fields else [Scaling(resize, crop)]


def _sized(preprocess: Preprocess, size: Scaling) -> Preprocess:
    return replace(preprocess, resize=size.resize, crop=size.crop)


def _normalised(preprocess: Preprocess, one: Normalisation) -> Preprocess:
    return replace(preprocess, mean=one.mean, std=one.std, channels=one.channels)
