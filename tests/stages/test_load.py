from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeres.artifacts.artifact import File
from edgeres.artifacts.source import Source
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import DataError, ModelError, StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.weights import save_checkpoint
from edgeres.model.zoo import Loaded
from edgeres.pipeline.stages import load as module
from edgeres.pipeline.stages.load import Load
from edgeres.pipeline.stages.stage import Context
from edgeres.targets.target import find_target

NAMES = tuple("abcdefghij")
OWN = Preprocess(resize=40, crop=32)


def tuning(count=12):
    random = np.random.default_rng(0)
    images = tuple(ArrayImage(random.integers(0, 256, (32, 32, 3), np.uint8), f"noise {i}") for i in range(count))
    return Split("tuning", images, tuple(i % 10 for i in range(count)))


def context(tmp_path, classes=NAMES, split=None):
    split = split or tuning()
    whole = Context(find_target("cpu"), split, split, split, split, classes, 0, tmp_path, tmp_path)
    return whole.view(Load.reads)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return Network(graph(preset("resnet20"))).state_dict()


def source(tmp_path, state, **changes):
    path = tmp_path / "w.pth"
    torch.save(state, path)
    return replace(Source("resnet20", file=File.of(path)), **changes)


def own(tmp_path, classes=NAMES, spec=None):
    spec = spec or preset("resnet20")
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, spec, Network(graph(spec)).weights(), OWN, classes)
    return Source("resnet20", file=File.of(path))


def test_what_the_user_says_goes_first(tmp_path):
    said = Preprocess(resize=0, crop=32)
    found = Load()(replace(own(tmp_path), preprocess=said), context(tmp_path))
    assert found.metadata.preprocess == said


def test_what_the_weights_say_goes_second(tmp_path):
    found = Load()(own(tmp_path), context(tmp_path))
    assert found.metadata.preprocess == OWN
    assert found.metadata.classes == NAMES
    assert "as stated with the weights" in found.metadata.lineage[0].notes[0]
    assert found.quant is None
    assert found.metadata.baseline is None


def test_otherwise_it_is_searched_and_said(tmp_path, state):
    given = source(tmp_path, state)
    digest = given.digest
    found = Load()(given, context(tmp_path))
    assert given.digest == digest
    (step,) = found.metadata.lineage
    assert (step.stage, step.metrics.probe_images) == ("load", 12)
    searched, outright, tried = step.notes
    assert "preprocessing found by trying" in searched
    assert step.shown == (searched,)
    assert f"--crop {found.metadata.preprocess.crop.text} --mean {found.metadata.preprocess.mean[0]:g}," in outright
    assert tried.count("% of 12") >= 12
    assert Load()(given, context(tmp_path)).digest == found.digest


def test_without_labelled_images_nothing_is_probed(tmp_path, state):
    blind = Split("tuning", tuning().images, (-1,) * 12)
    with pytest.raises(DataError, match="--resize and --crop"):
        Load()(source(tmp_path, state), context(tmp_path, split=blind))


@pytest.mark.parametrize("classes", [NAMES[:9], (*NAMES, "k")])
def test_head_and_data_must_have_the_same_classes(classes, tmp_path):
    with pytest.raises(DataError, match="head has 10"):
        Load()(own(tmp_path), context(tmp_path, classes))


def test_the_same_names_in_another_order_are_refused(tmp_path):
    swapped = ("b", "a", *NAMES[2:])
    with pytest.raises(DataError, match="class 'b' is number 0 in the data and 1 in the weights"):
        Load()(own(tmp_path), context(tmp_path, swapped))


def test_names_that_only_one_side_knows_and_twins_are_fine(tmp_path):
    twins = ("crane", *NAMES[1:9], "crane")
    folders = ("n01", *NAMES[1:9], "crane")
    found = Load()(own(tmp_path, twins), context(tmp_path, folders))
    assert found.metadata.classes == twins


def test_another_model_than_the_named_is_refused(tmp_path, state):
    with pytest.raises(ModelError, match="name resnet20 instead"):
        Load()(source(tmp_path, state, model="resnet18"), context(tmp_path))


def test_preprocessing_of_other_channels_than_the_network_reads_is_refused(tmp_path):
    grey = replace(preset("resnet20"), channels=1)
    with pytest.raises(DataError, match="the network reads 1 channels, the preprocessing stored with it 3"):
        Load()(own(tmp_path, spec=grey), context(tmp_path))
    stated = replace(own(tmp_path), preprocess=Preprocess(mean=(0.5,), std=(0.2,), channels="grey"))
    with pytest.raises(DataError, match="the network reads images of 3 channels, the stated preprocessing has 1"):
        Load()(stated, context(tmp_path))


def test_a_file_that_changed_meanwhile_is_refused(tmp_path):
    given = own(tmp_path)
    given.file.path.write_bytes(given.file.path.read_bytes() + b" ")
    with pytest.raises(ModelError, match="changed since the run began"):
        Load()(given, context(tmp_path))


def test_no_weights_is_an_error(tmp_path):
    with pytest.raises(StageError, match="pass --weights"):
        Load()(Source("resnet20"), context(tmp_path))


def test_published_weights_go_by_name(tmp_path, monkeypatch):
    spec = preset("resnet20")
    asked = []

    def read(given, hint, key):
        assert key is None
        asked.append((given, hint))
        return Loaded(spec, Network(graph(spec)).weights(), OWN, NAMES, ("a note",))

    monkeypatch.setattr(module, "read_checkpoint", read)
    found = Load()(Source("resnet20", weights="IMAGENET1K_V1"), context(tmp_path))
    assert asked == [("IMAGENET1K_V1", spec)]
    assert found.metadata.lineage[0].notes[0] == "a note"
