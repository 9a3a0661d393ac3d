"""Reading of weights, from any ResNet's file or torchvision's published ones, as a spec with frozen arrays.

Keys of other libraries are renamed to the graph's, which are torchvision's. Supported besides: timm's ResNets and
SE-ResNets (equal to torchvision's, with ``se.fc1`` and ``se.fc2``), timm's pre-activation ``resnetv2``, the CIFAR
networks of akamaster/pytorch_resnet_cifar10 and kuangliu/pytorch-cifar (``linear``, ``shortcut.0``), and heads inside a
Sequential (``fc.1``).

torchvision's wheel on PyPI links against the CUDA build of torch. With a CPU build its ``_C.so`` does not load, and its
import fails because it registers fake kernels for two operators of that library. Declaring the two is enough.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse

from edgeres.data.preprocess import Preprocess
from edgeres.errors import BackendUnavailable, ModelError
from edgeres.model.graph import check_shapes, graph
from edgeres.model.infer import infer, preset_name, reconcile
from edgeres.model.weights import RawFile, Weights, read_file, to_arrays
from edgeres.settings import parse, sha256_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    import torch

    from edgeres.model.spec import ResNetSpec

V = TypeVar("V")

_PREFIX = re.compile(r"^((module|model|backbone|encoder|net|network|_orig_mod)\.)+")
"""Prefixes of data parallelism, EMA, Lightning modules and torch.compile."""

_BOOKKEEPING = re.compile(r"(^|\.)(num_batches_tracked|n_averaged)$")  # training counters that inference does not read
_RENAMES = (
    (re.compile(r"^stem\.conv\."), "conv1."),
    (re.compile(r"^stages\.(\d+)\.blocks\.(\d+)\.norm(\d)\."), r"stages.\1.blocks.\2.bn\3."),
    (re.compile(r"\.downsample\.conv\."), ".downsample.0."),
    (re.compile(r"\.downsample\.norm\."), ".downsample.1."),
    (re.compile(r"\.shortcut\.(\d)\."), r".downsample.\1."),
)

_STAGE = re.compile(r"^stages\.(\d+)\.blocks\.(\d+)\.")
_HEAD = re.compile(r"^((?:fc|linear|head|classifier)(?:\.fc|\.\d+)*)\.(weight|bias)$")
_DIGITS = re.compile(r"-([0-9a-f]{8,})\.pth$")  # pattern of the first digits of the sha256 in a published file's name
_TIMEOUT = 20.0  # timeout in seconds of the server's first response
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network read from a file: its spec, and its weights under the graph's keys.

    ``preprocess`` and ``classes``, the latter in the order of the logits, are None where they are not stored with the
    weights. ``notes`` are for the user, one sentence each.
    """

    spec: ResNetSpec
    weights: Weights
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_checkpoint(source: Path | str, hint: ResNetSpec | None = None) -> Loaded:
    """Reads a network from a ``.safetensors`` or PyTorch file, or, by a string, torchvision's published weights.

    ``hint`` is the model that the user named; it is required for published weights. It gives strides and pooling, and
    must be the same network up to classes, input channels, stem and widths.

    Raises:
        ModelError: The file cannot be read, is not a ResNet's, holds NaN or infinite values, or contradicts the hint.
    """
    if isinstance(source, Path):
        raw = read_file(source)
        member = recognised(source, hint) if hint is not None else None
        return assemble(source, raw if member is None else _as_published(raw, member), hint)
    if hint is None:
        raise ModelError(f"published weights {source!r} need a model name", "name one, such as resnet18")
    member = published(source, hint)
    path = fetch(member)
    return assemble(path, _as_published(read_file(path), member), hint)


def _as_published(raw: RawFile, member: Any) -> RawFile:
    """The file with torchvision's documented transform and class names."""
    return RawFile(raw.tensors, preprocess=preprocess_of(member), classes=tuple(member.meta["categories"]))


def assemble(where: object, raw: RawFile, hint: ResNetSpec | None) -> Loaded:
    """A network from tensors under any known key names; ``where`` is their source, for ``ModelError``."""
    try:
        tensors = canonical(raw.tensors)
        head = tensors.get("fc.weight")
        if head is not None and head.ndim == 4 and tuple(head.shape[2:]) == (1, 1):
            tensors["fc.weight"] = head.flatten(1)  # timm's classifier of pre-activation networks, a 1x1 convolution
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if raw.spec is None:
            spec = infer(shapes, hint)
        else:
            spec = raw.spec
            check_shapes(graph(spec), shapes)
        notes = reconcile(spec, hint) if hint is not None else ()
        weights = Weights(to_arrays(tensors))
    except ModelError as failure:
        raise ModelError(f"{where}: {failure.what}", failure.hint) from failure
    if raw.wrapper:
        notes = (f"the weights were found under {raw.wrapper!r}", *notes)
    return Loaded(spec, weights, raw.preprocess, raw.classes, notes)


def canonical(tensors: Mapping[str, V]) -> dict[str, V]:
    """A state dict's values under the graph's keys, without training counters; an unknown key keeps its name.

    Raises:
        ModelError: Two keys become one, or the head has several layers.
    """
    plain = {key: _PREFIX.sub("", key) for key in tensors if not _BOOKKEEPING.search(key)}
    heads = sorted({match[1] for key in plain.values() if (match := _HEAD.match(key))})
    if len(heads) > 1:
        what = f"the classifier has {len(heads)} layers ({', '.join(heads)}), a ResNet has one"
        raise ModelError(what, "edgeres reads ResNets; take any other classifier in as an .onnx file")
    came_from: dict[str, str] = {}
    for key, bare in plain.items():
        name = _renamed(bare, heads[0] if heads else "")
        if name in came_from:
            what = f"keys {came_from[name]!r} and {key!r} both stand for {name!r}"
            raise ModelError(what, "save one network alone in the file")
        came_from[name] = key
    return {name: tensors[key] for name, key in came_from.items()}


def _renamed(key: str, head: str) -> str:
    if head and key.startswith(f"{head}."):
        return f"fc.{key.removeprefix(f'{head}.')}"
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    if match := _STAGE.match(key):
        key = f"layer{int(match[1]) + 1}.{match[2]}.{key[match.end() :]}"
    return key


@cache
def import_torchvision() -> ModuleType:
    """The ``torchvision`` package, with or without its compiled operators; ``BackendUnavailable`` without it."""
    import torch

    package = find_spec("torchvision")
    if package is None or package.origin is None:
        raise BackendUnavailable("torchvision is not installed", "pip install torchvision")
    libraries = sorted(Path(package.origin).parent.glob("_C*"))
    try:
        for library in libraries[:1]:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    except OSError:
        libraries = []
    if not libraries:
        _declare_operators()
    return importlib.import_module("torchvision")


@cache
def _declare_operators() -> torch.library.Library:
    """Declares the two operators without kernels; the cache keeps the library, and with it the operators, alive."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return library


def published(name: str, hint: ResNetSpec) -> Any:
    """The torchvision enum member of a model's weights.

    Names are ``IMAGENET1K_V1``, ``IMAGENET1K_V2`` or ``DEFAULT``, also with the class in front
    (``ResNet18_Weights.IMAGENET1K_V1``).

    Raises:
        ModelError: The name is unknown to torchvision.
    """
    models = import_torchvision().models
    model = preset_name(hint)
    if model is None or model not in models.list_models():
        what = f"torchvision publishes no weights of {model or 'this network'}"
        raise ModelError(what, "pass a .safetensors or .pth file with --weights")
    members = models.get_model_weights(model)
    short = name.rpartition(".")[2]
    if short not in members.__members__ or name not in (short, f"{members.__name__}.{short}"):
        what = f"{model} has no published weights {name!r}"
        raise ModelError(what, f"known: {', '.join(members.__members__)}; or the path of a file")
    return members[short]


def recognised(path: Path, hint: ResNetSpec) -> Any:
    """The enum member of a downloaded file, by torchvision's name and the sha256 in it; None for any other file."""
    digits = _DIGITS.search(path.name)
    model = preset_name(hint)
    if digits is None or model is None or not sha256_file(path).startswith(digits[1]):
        return None
    models = import_torchvision().models
    members = models.get_model_weights(model) if model in models.list_models() else ()
    return next((member for member in members if Path(urlparse(member.url).path).name == path.name), None)


def preprocess_of(weights: Any) -> Preprocess:
    """The documented evaluation transform of published weights."""
    transform = weights.transforms()
    content = {
        "resize": transform.resize_size[0],
        "crop": transform.crop_size[0],
        "mean": transform.mean,
        "std": transform.std,
        "interpolation": transform.interpolation.value,
    }
    return parse(Preprocess, content, f"torchvision's transform of {weights}", ModelError)


def fetch(weights: Any) -> Path:
    """Path of the published file in torch's hub folder, downloaded if it is missing.

    The file's sha256 must begin with the digits in its name.

    Raises:
        ModelError: No network, or the download is damaged; the hint has the address.
    """
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    import torch

    url = str(weights.url)
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        return path
    try:
        # torch downloads without a timeout; a request first keeps an unresponsive network from blocking the run.
        with urlopen(Request(url, method="HEAD"), timeout=_TIMEOUT):  # noqa: S310  # torchvision's own https address
            pass
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = _DIGITS.search(name)
        torch.hub.download_url_to_file(url, str(path), digits[1] if digits else None, progress=False)
    except (URLError, OSError, RuntimeError) as failure:
        reason = getattr(failure, "reason", failure)
        what = f"{weights} cannot be downloaded: {getattr(reason, 'strerror', None) or reason}"
        raise ModelError(what, f"fetch {url} by other means and pass --weights {name}") from failure
    return path
