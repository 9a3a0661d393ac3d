"""Reading of weights, from any ResNet's file or torchvision's published ones, as a spec with frozen arrays.

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
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import numpy as np

from edgeres.data.preprocess import Preprocess
from edgeres.errors import BackendUnavailable, ModelError
from edgeres.model.architecture import check_architecture
from edgeres.model.filled_weights import statistics, zero_head
from edgeres.model.graph import check_shapes, graph
from edgeres.model.infer import infer
from edgeres.model.key_names import NO_HEAD, canonical
from edgeres.model.likeness import preset_name, reconcile
from edgeres.model.module_settings import ModuleSettings, settled
from edgeres.model.weight_files import Layout, files_of, read_layout
from edgeres.model.weights import RawFile, Weights, read_file, to_arrays
from edgeres.settings import parse, sha256_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    import torch
    from numpy.typing import NDArray

    from edgeres.model.spec import ResNetSpec

_DIGITS = re.compile(r"-([0-9a-f]{8,})\.pth$")  # pattern of the first digits of the sha256 in a published file's name
_STANDARD_EPS = 1e-8  # added to the variance of a filter by Big Transfer's weight standardization
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


def read_checkpoint(
    source: Path | str, hint: ResNetSpec | None = None, key: str | None = None, *, new_head: int | None = None
) -> Loaded:
    """Reads a network from a ``.safetensors`` or PyTorch file, or, by a string, torchvision's published weights.

    ``hint`` is the model that the user named; it is required for published weights. It gives strides and pooling, and
    must be the same network up to classes, input channels, stem and widths. ``key`` picks one of several networks in a
    file. Features without a classifier get one of zeros for ``new_head`` classes.

    Raises:
        ModelError: The file cannot be read, is not a ResNet's, holds NaN or infinite values, or contradicts the hint.
    """
    if isinstance(source, Path):
        raw = read_file(source, key)
        if hint is not None:
            check_architecture(source, hint, raw.architecture)
        if hint is not None and (member := recognised(source, hint)) is not None:
            return assemble(source, _as_published(raw, member), hint)
        stored = sum(file.stat().st_size for file in files_of(source))
        return assemble(source, raw, hint, read_layout(source), new_head=new_head, stored=stored)
    if hint is None:
        raise ModelError(f"published weights {source!r} need a model name", "name one, such as resnet18")
    member = published(source, hint)
    path = fetch(member)
    return assemble(path, _as_published(read_file(path), member), hint)


def _as_published(raw: RawFile, member: Any) -> RawFile:
    """The file with torchvision's documented transform and class names."""
    return RawFile(raw.tensors, preprocess=preprocess_of(member), classes=tuple(member.meta["categories"]))


def assemble(
    where: object,
    raw: RawFile,
    hint: ResNetSpec | None,
    layout: Layout | None = None,
    *,
    new_head: int | None = None,
    stored: int | None = None,
) -> Loaded:
    """A network from tensors under any known key names; ``where`` is their source, for ``ModelError``.

    ``stored`` are the bytes of their files.
    """
    try:
        named = canonical(
            {key: tuple(tensor.shape) for key, tensor in raw.tensors.items()}, headless=new_head is not None
        )
        tensors = {name: raw.tensors[key] for name, key in named.keys.items()}
        arrays = to_arrays(tensors, stored)
        notes = (*raw.notes, *named.notes)
        arrays |= {f"{key}.weight": arrays[f"{key}.weight"][:, :, None, None] for key in _matrices(arrays)}
        head = arrays.get("fc.weight")
        if head is not None and head.ndim == 4 and head.shape[2:] == (1, 1):
            arrays["fc.weight"] = head.reshape(head.shape[:2])  # timm's classifier of pre-activation networks
        if named.affine:
            arrays |= statistics(arrays)
        if new_head is not None and head is None:
            arrays |= zero_head(arrays, new_head)
            notes = (*notes, f"the weights have no classifier: one for {new_head} classes begins at zero")
        spec = _spec(arrays, raw, hint, layout, raw.settings.renamed(named.keys))
        notes = (*notes, *(reconcile(spec, hint) if hint is not None else ()))
        weights = Weights(arrays)
        if raw.spec is None and spec.stem.zero_frame:
            weights = standardized(spec, weights)
            notes = (*notes, "the convolutions are weight-standardized, as Big Transfer trains them")
    except ModelError as failure:
        way = failure.hint
        if failure.what == NO_HEAD:
            model = (preset_name(hint) if hint is not None else None) or "MODEL"
            way = f"train one on its features: edgeres train {model} --weights {where} --data DIR, and compile that"
        raise ModelError(f"{where}: {failure.what}", way) from failure
    return Loaded(spec, weights, raw.preprocess, raw.classes, notes)


def _matrices(arrays: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """Layers that a file stores as matrices ``[O,I]``, and that are 1x1 convolutions here."""
    names = ("attnpool.q", "attnpool.k", "attnpool.v", "hidden")
    return [name for name in names if f"{name}.weight" in arrays and arrays[f"{name}.weight"].ndim == 2]


def standardized(spec: ResNetSpec, weights: Weights) -> Weights:
    """Weights of plain convolutions that compute what the file's do after weight standardization.

    Every filter has a mean of 0 and a variance of 1 (Qiao et al. 2019, arXiv 1903.10520, equation 3); computed in
    float64 and rounded once.
    """
    arrays = {}
    for op in graph(spec).ops:
        if op.kind == "conv":
            filters = weights[f"{op.name}.weight"].astype(np.float64)
            mean, variance = (of(filters, axis=(1, 2, 3), keepdims=True) for of in (np.mean, np.var))
            standard = (filters - mean) / np.sqrt(variance + _STANDARD_EPS)
            arrays[f"{op.name}.weight"] = standard.astype(np.float32)
    return weights.replaced(arrays)


def _spec(
    arrays: Mapping[str, NDArray[np.float32]],
    raw: RawFile,
    hint: ResNetSpec | None,
    layout: Layout | None,
    settings: ModuleSettings,
) -> ResNetSpec:
    """The network of arrays under the graph's keys, with what its modules or its companion state."""
    shapes = {key: array.shape for key, array in arrays.items()}
    if raw.spec is not None:
        check_shapes(graph(raw.spec), shapes)
        return raw.spec
    spec = infer(shapes, hint)
    spec = layout.of(spec) if layout is not None else spec
    return settled(spec, settings)


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
