"""``Candidate``: a quantized network and the settings of the techniques that made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeres.quant.table import with_sketches
from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from edgeres.model.weights import Weights
    from edgeres.quant.histogram import Histogram
    from edgeres.quant.quant_table import QuantTable
    from edgeres.quant.quantized import Quantized
    from edgeres.recovery.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class TechniqueSettings:
    """Settings with which a technique made a candidate; techniques subclass it with fields of their own.

    ``kl_of_variants`` has the mean KL divergence from float in nats of every variant that the technique compared.
    """

    kl_of_variants: dict[str, float] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, JsonValue]:
        """The settings as JSON data, without those that are None or empty; the comparison of variants comes last."""
        data = plain(self)
        data["kl_of_variants"] = data.pop("kl_of_variants")
        return {key: value for key, value in data.items() if value not in (None, {})}

    @property
    def note(self) -> str:
        """The settings in words, without the comparison of variants."""
        return ", ".join(f"{key} {value}" for key, value in self.record.items() if key != "kl_of_variants")


@dataclass(frozen=True, kw_only=True)
class FloatLayers(TechniqueSettings):
    """Layers that a technique left in float, with their share of the MACs, 0 to 1."""

    float_layers: tuple[str, ...]
    float_share_of_macs: float

    @property
    def note(self) -> str:
        """The layers, with their share in percent."""
        return f"in float: {', '.join(self.float_layers)} ({100 * self.float_share_of_macs:.1f} % of the MACs)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A quantized network and how it was made.

    ``reference`` are float weights with the same channel scales, which only equalization changes; ``settings`` are
    those of the applied techniques by name, in order; ``rounded`` says that the weights lie on their grid already, so
    that learned rounding does not apply; ``histograms`` are those of ``reference``'s tensors, empty where there are
    none.
    """

    quantized: Quantized
    reference: Weights
    settings: Mapping[str, TechniqueSettings] = field(default_factory=dict)
    rounded: bool = False
    histograms: Mapping[str, Histogram] = field(default_factory=dict)

    @property
    def table(self) -> QuantTable:
        """Its scales with sketches of their tensors."""
        return with_sketches(self.quantized.table, self.histograms)

    @property
    def records(self) -> dict[str, dict[str, JsonValue]]:
        """The settings of the applied techniques as JSON data."""
        return {name: one.record for name, one in self.settings.items()}


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate of a technique with its metrics on the tuning images."""

    technique: str
    candidate: Candidate
    evaluation: Evaluation


def unrounded(tried: Sequence[Tried]) -> Candidate:
    """The best of the candidates whose weights are not on their grid yet, from which rounding starts."""
    best, *others = [one for one in tried if not one.candidate.rounded]
    for one in others:
        if one.evaluation.better_than(best.evaluation):
            best = one
    return best.candidate
