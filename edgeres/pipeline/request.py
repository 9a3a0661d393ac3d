"""``Request``: everything the user asked for, as one serializable value."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgeres.artifacts.artifact import File
from edgeres.artifacts.source import Source
from edgeres.data.images import LFS_HINT, LFS_POINTER, is_lfs_pointer
from edgeres.data.preprocess import ChannelOrder, Crop, Deviations, Level, Preprocess, Values
from edgeres.data.size import ResizeMode, Size
from edgeres.errors import DataError, ModelError, UsageError
from edgeres.model.cost import shapes
from edgeres.model.graph import graph
from edgeres.model.presets import preset
from edgeres.model.weight_files import content_digest, files_of, weights_of
from edgeres.settings import parse, plain, settings

_PUBLISHED = re.compile(r"(?:\w+_Weights\.)?[A-Z][A-Z0-9_]*")
"""torchvision's names of weights: ``IMAGENET1K_V2``, ``ResNet50_Weights.DEFAULT``."""


@settings
class PreprocessFlags:
    """Preprocessing stated by the user; None leaves a value to the weights or the data."""

    resize: Size | None = None
    crop: Crop | None = None
    mean: Values | None = None
    std: Deviations | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    channels: ChannelOrder | None = None
    exif: Literal["ignore", "apply"] | None = None
    resize_mode: ResizeMode | None = None
    fill: tuple[Level, ...] | None = None
    range: tuple[float, float] | None = None

    @property
    def left_open(self) -> tuple[str, ...]:
        """Fields that the user did not state."""
        return tuple(name for name in self.__dataclass_fields__ if getattr(self, name) is None)

    @property
    def measured(self) -> tuple[str, ...]:
        """Fields that a training from random weights measures: those of other channels than three, if not stated."""
        if self.channels not in ("grey", "bands"):
            return ()
        return tuple(name for name in ("mean", "std") if getattr(self, name) is None)

    def _of_count(self, base: Preprocess) -> Preprocess:
        """A base with as many channels as are stated; one mean stands for one channel, not for each of three."""
        stated = next((len(values) for values in (self.mean, self.std) if values is not None), None)
        count = 1 if self.channels == "grey" else 3 if self.channels in ("rgb", "bgr") else stated or base.count
        if self.channels == "bands" or count != base.count:
            usual = Preprocess.usual(count)
            order = self.channels or usual.channels
            values = base if count == base.count else usual
            return replace(base, mean=values.mean, std=values.std, channels=order, fill=(0,))
        return base

    def over(self, base: Preprocess | None) -> Preprocess | None:
        """The stated values over a base.

        A crop without a resize keeps ImageNet's ratio of 256 to 224, or is the whole image where the mode of resizing
        is stated and not ``fit``. A resize without a crop is cropped to the base's size where it holds it, and not
        cropped where it does not, is no square, or another mode is stated.

        Raises:
            UsageError: A crop larger than the image it is cut from.
        """
        stated = {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name)) is not None}
        if not stated:
            return base
        start, mode = self._of_count(base or Preprocess()), self.resize_mode
        if self.resize is None and (self.crop or mode):
            margin = Preprocess() if self.crop else start
            stated["resize"] = margin.resize_for(self.crop or start.crop, mode).plain
        if self.crop is None and self.resize and self.resize.height:
            stated["crop"] = start.crop_for(self.resize, mode)
        preprocess = parse(Preprocess, {**plain(start), **stated}, "preprocessing")
        if preprocess.resizes and not preprocess.resize.holds(preprocess.crop):
            raise UsageError(
                f"--crop {preprocess.crop.text} is larger than --resize {preprocess.resize.text}: the image would be "
                "padded",
                "give a crop of at most the resized size, or --resize 0 for images as they are",
            )
        return preprocess


@settings
class Request:
    """A compile request.

    Attributes:
        model: Preset name, or path of an ``.onnx`` file to import.
        weights: torchvision enum name, or path of a weights file, of an index of several, or of a folder with one.
        weights_key: Key of the dictionary, or prefix of the tensors' keys, to take from the weights; None finds it.
        data: Path of a source of images; None takes the bundled sample task.
        classes: File with the names of the network's outputs in their order, or with the output of each class folder;
            None matches them by the names that travel with the weights, or else sorts them.
        answers: Outputs among which the largest is a prediction where the data have some of the network's classes: all
            of them, as on the device, or the subset that the data have.
        task: What the outputs of the network are; None finds it from the graph and the data.
        main_output: Output of an imported file with several that is deployed and judged; None takes the one that fits.
        recipe: Recipe name or file; None chooses by the origin of the network.
        changes: Changed settings of the recipe, ``stage.key=value``.
        until: Last stage to run.
        calibration: Number of calibration images.
        scales: Path of a calibration table, or of a run folder with one, to use instead of calibrating.
        allow: Named exceptions from the data contract.
        preprocess: Preprocessing stated by the user.
        budget: The user's limits; None removes one.
        strict: Whether an unmeasured budget line fails.
        variant: Deployed variant: ``int8`` wherever the target has it, ``float``, or of both the ``fastest`` that keeps
            the accuracy limit, as measured on the target's runtime.
    """

    model: str
    target: str
    weights: str | None = None
    weights_key: str | None = None
    data: str | None = None
    classes: str | None = None
    answers: Literal["all", "subset"] = "all"
    task: str | None = None
    main_output: str | None = None
    recipe: str | None = None
    changes: tuple[str, ...] = ()
    until: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    calibration: int = 512
    scales: str | None = None
    allow: tuple[str, ...] = ()
    preprocess: PreprocessFlags = PreprocessFlags()
    budget: dict[str, float | None] = Field(default_factory=dict)
    strict: bool = False
    variant: Literal["int8", "float", "fastest"] = "int8"

    @property
    def foreign(self) -> bool:
        """Whether the model is an imported ONNX file."""
        return self.model.lower().endswith(".onnx")

    @property
    def name(self) -> str:
        """Name of the network: the preset's name, or the file's stem."""
        return Path(self.model).stem if self.foreign else self.model

    def check_names(self) -> None:
        """Checks names and kinds of paths without reading any file.

        Raises:
            ModelError: Unknown preset, a crop that its network cannot take, or ``--weights`` that is no weights file.
        """
        if not self.foreign:
            spec = preset(self.model)
            if self.preprocess.crop is not None:
                shapes(graph(spec), *self.preprocess.crop)
            if self.weights is not None and not self._published:
                _check_weights(self.weights, self.model)

    @property
    def _published(self) -> bool:
        weights = self.weights or ""
        return _PUBLISHED.fullmatch(weights) is not None and not Path(weights).exists()

    def source(self) -> Source:
        """Origin of the network, with the sha256 of its file.

        Raises:
            ModelError: Unknown preset, or a missing file.
            DataError: Weights or an imported graph without data to evaluate them on.
        """
        self.check_names()
        if self.foreign:
            if self.weights:
                raise UsageError(f"--weights {self.weights} beside {self.model}", "an ONNX file holds its own weights")
            from edgeres.onnx_graph.external import content_digest as graph_digest

            path = _readable(Path(self.model), "model")
            file = File(path.absolute(), graph_digest(path))  # with its external data
            source = Source(self.name, file=file, main_output=self.main_output)
        elif self.weights is None or self._published:
            source = Source(self.model, weights=self.weights)
        else:
            path = weights_of(Path(self.weights))
            for part in files_of(path):
                _readable(part, "weights")
            file = File(path.absolute(), content_digest(path))  # not resolved: a link's target may have no suffix
            source = Source(self.model, file=file, weights_key=self.weights_key)
        if self.main_output is not None and not self.foreign:
            raise UsageError(f"--main-output {self.main_output} without an ONNX file", "weights have one output")
        if self.weights_key is not None and (self.foreign or source.file is None):
            raise UsageError(f"--weights-key {self.weights_key} without --weights FILE", "leave it out")
        if self.data is None and (source.file or source.weights):
            raise DataError(
                f"{self.weights or self.model} comes without data to calibrate and judge it",
                "pass --data DIR with train/<class>/ and val/<class>/ images",
            )
        stated = self.preprocess.over(None)
        return replace(source, preprocess=stated, left_open=self.preprocess.left_open if stated else ())


def _check_weights(word: str, model: str) -> None:
    """Refuses a folder, an ONNX file, or a missing path in place of a weights file."""
    path = weights_of(Path(word))
    if path.suffix.lower() == ".onnx":
        hint = f"pass it instead of {model}: edgeres compile {word} --target TARGET --data DIR"
        raise ModelError(f"--weights {word} is an ONNX file, which is a network of its own", hint)
    if not path.exists():
        raise ModelError(f"no weights file {word}", "check the path, or name published weights such as IMAGENET1K_V1")


def _readable(path: Path, what: str) -> Path:
    """The path of a file that exists and holds more than a Git LFS pointer."""
    if not path.is_file():
        raise ModelError(f"no {what} file {path}", "check the path")
    try:
        with path.open("rb") as stream:
            if is_lfs_pointer(stream.read(64)):
                raise ModelError(f"{path} {LFS_POINTER}", LFS_HINT)
    except OSError as failure:
        raise ModelError(f"cannot read {path}: {failure.strerror}", "check its permissions") from failure
    return path
