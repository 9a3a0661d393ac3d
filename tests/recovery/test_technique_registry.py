"""Techniques are found in the files of a package, in the order of their cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.errors import UsageError
from edgeres.pipeline.recipe import load_recipe
from edgeres.recovery import registry, techniques
from edgeres.recovery.registry import TECHNIQUES, chain

QUICK = ("calibrate", "first_layer", "equalization", "range_search", "bias_correction")

TOY = """
from dataclasses import dataclass, replace

from edgeres.quant.quantized import Quantized
from edgeres.recovery.context import TechniqueSettings
from edgeres.recovery.technique import Technique


@dataclass(frozen=True, kw_only=True)
class ToySettings(TechniqueSettings):
    strength: int


class Toy(Technique):
    name = "toy"
    order = 15
    effort = "quick"

    def predicted(self):
        return 0.0

    def candidate(self, tried, best):
        '''16-bit weights, which are nearer to float than those of 8 bits.'''
        table = best.candidate.quantized.table
        fine = {
            name: replace(params, bits=16, scale=tuple(scale / 256 for scale in params.scale))
            for name, params in table.weights.items()
        }
        quantized = replace(best.candidate.quantized, table=replace(table, weights=fine))
        settings = {**best.candidate.settings, self.name: ToySettings(strength=3)}
        return replace(best.candidate, quantized=quantized, settings=settings)


TECHNIQUE = Toy
"""

SEARCH = """
import sys
from pathlib import Path

import edgeres.recovery.techniques

edgeres.recovery.techniques.__path__.append(sys.argv[1])
sys.path.append("..")

import test_technique_networks as networks
from edgeres.pipeline.recipe import load_recipe
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.pipeline.stages.stage import Context

spec = networks.spec_of_four()
weights = networks.random_weights(spec)
folder = Path(sys.argv[1])
split = networks.split_of("calibration", 24, 1)
context = Context(
    target=networks.JETSON, train=split, calibration=split, tuning=networks.tuned(spec, weights), validation=split,
    classes=networks.CLASSES, seed=0, margin=1.0, workspace=folder, scratch=folder,
)
skip = ("first_layer", "equalization", "range_search", "bias_correction")
stage = Quantize(effort="quick", calibrator="minmax", weights="max", skip=skip)
step = stage(networks.checkpoint(spec, weights), context.view(Quantize.reads)).metadata.lineage[-1]
chosen = next(row for row in step.techniques if row.chosen)
print(chosen.name, chosen.note, chosen.settings)
print([row.name for row in step.techniques][:3])
recipe = load_recipe("int8").changed(("quantize.technique=toy", "quantize.skip=[toy]"))
print(next(stage.technique for stage in recipe.stages if isinstance(stage, Quantize)))
"""


def test_techniques_are_in_order_of_cost():
    assert tuple(TECHNIQUES) == (*QUICK, "nncf", "gptq", "block_reconstruction", "mixed_precision")
    assert {name for name, one in TECHNIQUES.items() if one.reserved} == {"bias_correction", "gptq"}


def test_forced_technique_builds_on_the_quick_ones_before_it():
    assert chain("calibrate") == ("calibrate",)
    assert chain("range_search") == QUICK[:4]
    assert chain("bias_correction") == QUICK
    assert chain("nncf") == ("nncf",)
    for name in ("gptq", "block_reconstruction", "mixed_precision"):
        assert chain(name) == (*QUICK, name)


def test_technique_of_one_added_file_is_chosen_by_the_search_and_accepted_by_recipes(tmp_path):
    Path(tmp_path, "toy.py").write_text(TOY)
    command = [sys.executable, "-c", SEARCH, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    chosen, order, recipe = done.stdout.splitlines()[-3:]
    assert chosen.startswith("toy strength 3 {'calibrate': {'calibrator': 'minmax', 'weights': 'max'}, 'toy': ")
    assert order == "['calibrate', 'toy', 'first_layer']"
    assert recipe == "toy"


def test_unknown_technique_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"'gptqq' is not one of 'auto', 'calibrate', .*: did you mean 'gptq'\?"):
        load_recipe("int8").changed(("quantize.technique=gptqq",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "techniques.odd has no technique 'odd': set TECHNIQUE to a subclass of that name"),
        (TOY, "techniques.odd has no technique 'odd'"),
        (TOY.replace('"toy"', '"odd"').replace("order = 15", "order = 70"), "gptq and odd have the same order"),
    ],
)
def test_file_without_a_technique_of_its_own_is_refused(tmp_path, monkeypatch, text, message):
    Path(tmp_path, "odd.py").write_text(text)
    monkeypatch.setattr(techniques, "__path__", [*techniques.__path__, str(tmp_path)])
    with pytest.raises(UsageError, match=message):
        registry.discover()
    sys.modules.pop(f"{techniques.__name__}.odd", None)
