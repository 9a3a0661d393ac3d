"""torchvision's published weights, without ever asking the network."""

import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.model import zoo as module
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.zoo import preprocess_of, published, read_checkpoint


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("model", "name", "resize"),
    [
        ("resnet18", "IMAGENET1K_V1", 256),
        ("resnet18", "DEFAULT", 256),
        ("resnet50", "IMAGENET1K_V2", 232),
        ("resnet50", "ResNet50_Weights.IMAGENET1K_V2", 232),
        ("wide_resnet101_2", "DEFAULT", 232),
        ("resnext101_64x4d", "IMAGENET1K_V1", 232),
    ],
)
def test_transforms_are_torchvisions(model, name, resize):
    assert preprocess_of(published(name, preset(model))) == Preprocess(resize=resize, crop=224)


@pytest.mark.parametrize(
    ("model", "name", "says"),
    [
        ("resnet18", "IMAGENET1K_V2", "known: IMAGENET1K_V1, DEFAULT"),
        ("resnet18", "IMAGENET", "resnet18 has no published weights 'IMAGENET'"),
        ("resnet18", "ResNet50_Weights.IMAGENET1K_V1", "resnet18 has no published weights"),
        ("resnet20", "IMAGENET1K_V1", "no weights of resnet20"),
        ("resnet50_v1", "IMAGENET1K_V1", "no weights of resnet50_v1"),
        ("seresnet50", "DEFAULT", "no weights of seresnet50"),
    ],
)
def test_unknown_names_are_told_with_the_known(model, name, says):
    with pytest.raises(ModelError) as caught:
        published(name, preset(model))
    assert says in str(caught.value)


def test_without_network_the_address_is_the_way_out(hub, monkeypatch):
    def unreachable(*_args, **_options):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(ModelError) as caught:
        read_checkpoint("IMAGENET1K_V1", preset("resnet18"))
    assert "cannot be downloaded: Name or service not known" in str(caught.value)
    assert "fetch https://download.pytorch.org/models/resnet18-f37072fd.pth" in caught.value.hint
    assert "--weights resnet18-f37072fd.pth" in caught.value.hint
    assert not list(hub.iterdir())


def test_a_fetched_file_brings_transform_and_classes(hub):
    torch.save(Network(graph(preset("resnet18"))).state_dict(), hub / "resnet18-f37072fd.pth")
    loaded = read_checkpoint("IMAGENET1K_V1", preset("resnet18"))
    assert loaded.preprocess == Preprocess()
    assert loaded.classes is not None
    assert (len(loaded.classes), loaded.classes[0]) == (1000, "tench")


def test_a_file_fetched_by_other_means_is_recognised_by_its_hash(tmp_path, monkeypatch):
    """A published file is known by name and content; a file that merely has the name is not."""
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(Network(graph(preset("resnet18"))).state_dict(), path)
    assert read_checkpoint(path, preset("resnet18")).preprocess is None
    monkeypatch.setattr(module, "sha256_file", lambda _: "f37072fd" + "0" * 56)
    assert read_checkpoint(path, preset("resnet18")).preprocess == Preprocess()


def test_digits_in_a_name_are_compared_with_the_content(tmp_path):
    content = b"not weights"
    path = Path(tmp_path / f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth")
    path.write_bytes(content)
    assert module.recognised(path, preset("resnet18")) is None
