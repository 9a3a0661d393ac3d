"""``Source``: origin of a network, input of a pipeline's first stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.artifacts.artifact import File
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError
from edgeres.settings import digest, parse, plain

if TYPE_CHECKING:
    from edgeres.data.size import Size


@dataclass(frozen=True)
class Source:
    """Origin of a network: a preset to train, weights to load, or an ONNX file to import.

    Attributes:
        model: Preset name, or the name of the run for an ONNX file.
        weights: A torchvision enum name, or None.
        weights_key: Key of the dictionary, or prefix of the tensors' keys, to take from the file; None finds it.
        preprocess: Preprocessing stated by the user; None takes it from the weights or the data.
        left_open: Fields of ``preprocess`` that were not stated, which the weights or a search give.
        classes: Class names in the order of the network's outputs, as stated; empty where the data's order holds.
        suggested: Preprocessing in companion files of the weights.
        task: What the outputs are, as asked for or found.
        main_output: Output of an ONNX file with several that is deployed, as stated; None takes the one that fits.
        recognised: Whether the layers of an ONNX file are those of a residual network, which is loaded like weights.
    """

    model: str
    weights: str | None = None
    file: File | None = None
    weights_key: str | None = None
    preprocess: Preprocess | None = None
    left_open: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    suggested: Preprocess | None = None
    task: str = "classification"
    main_output: str | None = None
    recognised: bool = False

    @property
    def imported(self) -> bool:
        """Whether an ONNX file is taken as the graph that it is."""
        return self.file is not None and self.file.path.suffix.lower() == ".onnx" and not self.recognised

    @property
    def digest(self) -> str:
        """Digest of the file, the names, and the preprocessing."""
        stated, beside = (plain(one) if one else None for one in (self.preprocess, self.suggested))
        names = self.model, self.weights, self.file and self.file.sha256 + (self.weights_key or "")
        named = [*names, stated, list(self.left_open), list(self.classes), beside]
        named += [] if self.task == "classification" else [self.task]
        return digest(named if self.main_output is None else [*named, {"main_output": self.main_output}])

    def stated_over(self, base: Preprocess) -> Preprocess:
        """``base`` with the user's values in its place."""
        if self.preprocess is None:
            return base
        left = {name: getattr(base, name) for name in self.left_open}
        mode = None if "resize_mode" in left else self.preprocess.resize_mode
        if "resize" in left and ("crop" not in left or mode):
            left["resize"] = base.resize_for(left.get("crop", self.preprocess.crop), mode)
        if "crop" in left and "resize" not in left and self.preprocess.resizes:
            left["crop"] = base.crop_for(self.preprocess.resize, mode)
        stated = {name: getattr(self.preprocess, name) for name in Preprocess.__dataclass_fields__}
        return parse(Preprocess, stated | left, "stated preprocessing over that of the weights", DataError)

    def at_size(self, size: Size) -> tuple[Source, tuple[str, ...]]:
        """The source of a graph that takes images of one size only, and a note where a stated crop was replaced.

        The crop is set to that size. Where a crop was stated or suggested with its resize, the resize scales with it.

        Raises:
            DataError: A resized image smaller than the graph's.
        """
        suggested = _scaled(self.suggested, size) if self.suggested else None
        stated, notes = self.preprocess, tuple[str, ...]()
        if stated is None:
            return replace(self, suggested=suggested), ()
        left_open = tuple(name for name in self.left_open if name != "crop")
        if left_open != self.left_open:
            if "resize" not in left_open and stated.resizes and not stated.resize.holds(size):
                raise DataError(
                    f"--resize {stated.resize.text} is smaller than the {size.text} px the graph takes",
                    "give at least that, or leave it out",
                )
            stated = replace(stated, crop=size)
        elif stated.crop != size:
            scaled = _scaled(stated, size)
            change = f"crop {stated.crop.text} -> {size.text}, resize {stated.resize.text} -> {scaled.resize.text}"
            stated, notes = scaled, (f"the graph takes {size.text} px: {change}",)
        return replace(self, preprocess=stated, left_open=left_open, suggested=suggested), notes


def _scaled(preprocess: Preprocess, size: Size) -> Preprocess:
    return replace(preprocess, crop=size, resize=preprocess.resize_for(size))
