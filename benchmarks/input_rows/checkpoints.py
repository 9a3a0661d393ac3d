"""One network in the files of other libraries."""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import TYPE_CHECKING

import torch

from benchmarks.digit_data import (
    folders,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeres.model.network import Network

from benchmarks.input_rows.row import MODEL, STATED, Row, Words, body, png

SECTION = "Checkpoints"


def checkpoint(folder: Path, write: Callable[[Path, Network], Path | str]) -> Words:
    """A checkpoint of the usual network, written in one way."""
    file = write(folder, body())
    return [MODEL, "--weights", str(file), "--data", str(folders(folder / "data", png)), *STATED]


def keyed(folder: Path, made: Network, rename: Callable[[str], str]) -> Path:
    """Renamed keys."""
    torch.save({rename(key): value for key, value in made.state_dict().items()}, folder / "w.pth")
    return folder / "w.pth"


def transformers_key(key: str) -> str:
    """Names of ``ResNetForImageClassification``."""
    module, _, leaf = key.rpartition(".")
    if module in ("conv1", "bn1"):
        return f"resnet.embedder.embedder.{'convolution' if module == 'conv1' else 'normalization'}.{leaf}"
    if module == "fc":
        return f"classifier.1.{leaf}"
    stage, block, *rest = module.split(".")
    place = f"resnet.encoder.stages.{int(stage[5:]) - 1}.layers.{block}"
    if rest[0] == "downsample":
        return f"{place}.shortcut.{('convolution', 'normalization')[int(rest[1])]}.{leaf}"
    kind = "convolution" if rest[0].startswith("conv") else "normalization"
    return f"{place}.layer.{int(rest[0][-1]) - 1}.{kind}.{leaf}"


def averaged(folder: Path, made: Network) -> Path:
    """Timm's checkpoint: the averaged weights beside the last ones, and the arguments."""
    last = {key: torch.zeros_like(value) for key, value in made.state_dict().items()}
    content = {"epoch": 3, "arch": MODEL, "state_dict": last, "state_dict_ema": made.state_dict(),
               "args": argparse.Namespace(lr=0.1, model=MODEL)}  # fmt: skip
    torch.save(content, folder / "w.pth.tar")
    return folder / "w.pth.tar"


def lightning(folder: Path, made: Network) -> Path:
    """A checkpoint of PyTorch Lightning."""
    content = {
        "epoch": 3, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"args": argparse.Namespace(lr=0.1)},
        "state_dict": {f"model.{key}": value for key, value in made.state_dict().items()},
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(0.5)}},
    }  # fmt: skip
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def sharded(folder: Path, made: Network) -> Path:
    """A folder as ``save_pretrained`` leaves it."""
    from safetensors.torch import save_file

    root = folder / "model"
    root.mkdir()
    state = {transformers_key(key): value.contiguous() for key, value in made.state_dict().items()}
    keys, where = sorted(state), dict[str, str]()
    for index, part in enumerate((keys[::2], keys[1::2]), 1):
        name = f"model-0000{index}-of-00002.safetensors"
        save_file({key: state[key] for key in part}, root / name)
        where |= dict.fromkeys(part, name)
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return root


def whole_module(folder: Path, made: Network) -> Path:
    """``torch.save`` of the module itself."""
    torch.save(made, folder / "w.pth")
    return folder / "w.pth"


def narrowed(folder: Path, made: Network, kind: torch.dtype) -> Path:
    """Weights of 16 bits."""
    state = {key: value.to(kind) if value.is_floating_point() else value for key, value in made.state_dict().items()}
    torch.save(state, folder / "w.pth")
    return folder / "w.pth"


def truncated(folder: Path, made: Network) -> Path:
    """The last 2,000 bytes are missing."""
    file = whole_module(folder, made)
    file.write_bytes(file.read_bytes()[:-2000])
    return file


def without_classifier(folder: Path, made: Network) -> Path:
    """Features alone."""
    torch.save({key: value for key, value in made.state_dict().items() if not key.startswith("fc.")}, folder / "w.pth")
    return folder / "w.pth"


def not_finite(folder: Path, made: Network) -> Path:
    """One filter is NaN."""
    state = made.state_dict()
    state["layer2.0.conv1.weight"][0, 0] = torch.nan
    torch.save(state, folder / "w.pth")
    return folder / "w.pth"


def _rows() -> tuple[Row, ...]:
    kinds: dict[str, Callable[[Path, Network], Path | str]] = {
        "transformers' keys": partial(keyed, rename=transformers_key),
        "MoCo's `module.encoder_q.`": partial(keyed, rename="module.encoder_q.{}".format),
        "OpenMMLab's `backbone.` and `head.`":
            partial(keyed, rename=lambda key: f"head.{key}" if key.startswith("fc.") else f"backbone.{key}"),
        "EMA beside the last weights, argparse.Namespace": averaged,
        "Lightning checkpoint with callbacks": lightning,
        "sharded safetensors with an index": sharded,
        "float16": partial(narrowed, kind=torch.float16),
        "bfloat16": partial(narrowed, kind=torch.bfloat16),
        "a whole pickled module": whole_module,
        "cut short": truncated,
        "no classifier": without_classifier,
        "NaN among the weights": not_finite,
    }  # fmt: skip
    return tuple(Row(SECTION, title, partial(checkpoint, write=write)) for title, write in kinds.items())


ROWS = _rows()
"""Rows of this section."""
