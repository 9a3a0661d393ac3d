"""CLIP's attention pool: equal to torch's attention of the mean, with the names of its own checkpoints."""

import numpy as np
import pytest
import torch
from family_networks import NETWORKS
from random_weights import random_weights
from stored_tensors import stored
from torch import nn

from edgeres.data.size import Size
from edgeres.errors import ModelError
from edgeres.model.cost import shapes
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.weights import RawFile, Weights
from edgeres.model.zoo import assemble

SPEC = NETWORKS["attention pool"]
IMAGES = np.random.default_rng(3).normal(size=(2, 3, 32, 32)).astype(np.float32)


def values(weights, names):
    """Tensors of a network by name, and its logits."""
    found = {}
    with torch.no_grad():
        logits = Network(graph(SPEC), weights).eval()(torch.from_numpy(IMAGES), lambda name, x: found.update({name: x}))
    return [found[name] for name in names], logits


def test_it_is_multi_head_attention_of_the_mean_to_every_pixel():
    weights = random_weights(SPEC)
    (features, pooled), _ = values(weights, ["layer2.1.relu", "attnpool.attention"])
    module = nn.MultiheadAttention(16, SPEC.attention_heads, batch_first=True)
    with torch.no_grad():
        rows = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([rows.mean(1, keepdim=True), rows], 1) + torch.from_numpy(weights["attnpool.weight"].copy())
        parts = [torch.from_numpy(weights[f"attnpool.{part}.weight"][:, :, 0, 0].copy()) for part in "qkv"]
        biases = [torch.from_numpy(weights[f"attnpool.{part}.bias"].copy()) for part in "qkv"]
        module.in_proj_weight.copy_(torch.cat(parts))
        module.in_proj_bias.copy_(torch.cat(biases))
        module.out_proj.weight.copy_(torch.eye(16))
        expected, _ = module(tokens[:, :1], tokens, tokens)
    torch.testing.assert_close(pooled[:, :, 0, 0], expected[:, 0], rtol=1e-5, atol=1e-5)


def test_keys_that_say_nothing_give_the_mean_of_the_values():
    weights = random_weights(SPEC)
    weights = weights.replaced({"attnpool.k.weight": np.zeros((16, 16, 1, 1), np.float32)})
    (value, pooled), _ = values(weights, ["attnpool.v", "attnpool.attention"])
    torch.testing.assert_close(pooled, value.mean((2, 3), keepdim=True), rtol=1e-5, atol=1e-6)


def clip_key(key):
    """OpenAI's and open_clip's names of the graph's keys."""
    for ours, theirs in {
        "conv1.0.": "conv1.", "conv1.1.": "bn1.", "conv1.3.": "conv2.", "conv1.4.": "bn2.", "conv1.6.": "conv3.",
        "bn1.": "bn3.", "attnpool.weight": "attnpool.positional_embedding", "attnpool.q.": "attnpool.q_proj.",
        "attnpool.k.": "attnpool.k_proj.", "attnpool.v.": "attnpool.v_proj.", "fc.": "attnpool.c_proj.",
    }.items():  # fmt: skip
        if key.startswith(ours):
            return f"visual.{theirs}{key.removeprefix(ours)}"
    return "visual." + key.replace("downsample.1.", "downsample.0.").replace("downsample.2.", "downsample.1.")


def test_clips_own_names_beside_its_text_encoder():
    spec = preset("resnet50_clip")
    parameters = graph(spec).parameters
    random = np.random.default_rng(0)
    arrays = {key: random.normal(size=shape).astype(np.float32) ** 2 for key, shape in parameters.items()}
    flat = ("attnpool.q.weight", "attnpool.k.weight", "attnpool.v.weight")
    state = {clip_key(key): torch.from_numpy(a[:, :, 0, 0] if key in flat else a) for key, a in arrays.items()}
    text = {"text_projection": torch.zeros(512, 1000), "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(3, 1)}
    loaded = assemble("clip", RawFile(stored(state | text)), spec)
    assert loaded.spec == spec
    assert loaded.weights.digest == Weights(arrays).digest
    assert any("text_projection" in note for note in loaded.notes)


@pytest.mark.parametrize(("name", "side"), [("resnet50_clip", 224), ("resnet50x4_clip", 288)])
def test_it_takes_the_images_whose_pixels_it_has_positions_for(name, side):
    spec = preset(name)
    assert spec.image_size == Size.square(side)
    assert shapes(graph(spec), side, side)["attnpool"] == (spec.stages[-1][-1].out, (side // 32) ** 2 + 1, 1)
    with pytest.raises(ModelError, match=r"the head reads .* pixels of features, and images of 256x256 give 8x8"):
        shapes(graph(spec), 256, 256)
