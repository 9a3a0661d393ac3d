"""``Request``: everything the user asked for, as one serializable value."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgeres.artifacts.artifact import File, Source
from edgeres.data.images import LFS_HINT, LFS_POINTER, is_lfs_pointer
from edgeres.data.preprocess import Crop, Positive, Preprocess, Resize
from edgeres.errors import DataError, ModelError, UsageError
from edgeres.model.spec import preset, weights_in
from edgeres.settings import parse, plain, settings

_PUBLISHED = re.compile(r"(?:\w+_Weights\.)?[A-Z][A-Z0-9_]*")
"""torchvision's names of weights: ``IMAGENET1K_V2``, ``ResNet50_Weights.DEFAULT``."""


@settings
class PreprocessFlags:
    """Preprocessing stated by the user; None leaves a value to the weights or the data."""

    resize: Resize | None = None
    crop: Crop | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    channels: Literal["rgb", "bgr"] | None = None
    exif: Literal["ignore", "apply"] | None = None

    @property
    def left_open(self) -> tuple[str, ...]:
        """Fields that the user did not state."""
        return tuple(name for name in self.__dataclass_fields__ if getattr(self, name) is None)

    def over(self, base: Preprocess | None) -> Preprocess | None:
        """The stated values over a base; a crop without a resize keeps ImageNet's ratio of 256 to 224.

        A resize below the base's crop sets the crop to the resized side, so that nothing is padded.

        Raises:
            UsageError: A crop larger than the side it is cut from.
        """
        stated = {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name)) is not None}
        if not stated:
            return base
        if "crop" in stated and "resize" not in stated:
            stated["resize"] = round(stated["crop"] * 256 / 224)
        if stated.get("resize") and "crop" not in stated:
            stated["crop"] = min(stated["resize"], (base or Preprocess()).crop)
        preprocess = parse(Preprocess, {**plain(base or Preprocess()), **stated}, "preprocessing")
        if preprocess.resize and preprocess.crop > preprocess.resize:
            raise UsageError(
                f"--crop {preprocess.crop} is larger than --resize {preprocess.resize}: the image would be padded with "
                "black",
                "give a crop of at most the resized side, or --resize 0 for images as they are",
            )
        return preprocess


@settings
class Request:
    """A compile request.

    Attributes:
        model: Preset name, or path of an ``.onnx`` file to import.
        weights: torchvision enum name or path of a weights file.
        data: Folder of images; None takes the bundled sample task.
        classes: Text file with the names of the class folders in the order of the network's outputs; None matches them
            by the names that travel with the weights, or else sorts them.
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
    data: str | None = None
    classes: str | None = None
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
            ModelError: Unknown preset, or ``--weights`` that cannot be a weights file.
        """
        if not self.foreign:
            preset(self.model)
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
            from edgeres.onnx_graph.external import content_digest

            file = _file(self.model, "model")
            source = Source(self.name, file=replace(file, sha256=content_digest(file.path)))  # with its external data
        elif self.weights is None or self._published:
            source = Source(self.model, weights=self.weights)
        else:
            source = Source(self.model, file=_file(self.weights, "weights"))
        if self.data is None and (source.file or source.weights):
            raise DataError(
                f"{self.weights or self.model} comes without data to calibrate and judge it",
                "pass --data DIR with train/<class>/ and val/<class>/ images",
            )
        stated = self.preprocess.over(None)
        return replace(source, preprocess=stated, left_open=self.preprocess.left_open if stated else ())


def _check_weights(word: str, model: str) -> None:
    """Refuses a folder, an ONNX file, or a missing path in place of a weights file."""
    path = Path(word)
    if path.is_dir():
        files = weights_in(path)
        inside = f"name the file in it: --weights {files[0]}" if files else "name a file, such as model.safetensors"
        raise ModelError(f"--weights {word} is a folder", inside)
    if path.suffix.lower() == ".onnx":
        hint = f"pass it instead of {model}: edgeres compile {word} --target TARGET --data DIR"
        raise ModelError(f"--weights {word} is an ONNX file, which is a network of its own", hint)
    if not path.exists():
        raise ModelError(f"no weights file {word}", "check the path, or name published weights such as IMAGENET1K_V1")


def _file(path: str, what: str) -> File:
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"no {what} file {path}", "check the path")
    try:
        with file.open("rb") as stream:
            if is_lfs_pointer(stream.read(64)):
                raise ModelError(f"{path} {LFS_POINTER}", LFS_HINT)
        return File.of(file.resolve())
    except OSError as failure:
        raise ModelError(f"cannot read {path}: {failure.strerror}", "check its permissions") from failure
