"""torchvision's published weights, by their enum names, and its import beside a torch of another build.

The wheel on PyPI links against the CUDA build of torch. With a CPU build its ``_C.so`` does not load, torchvision
continues without it, and then its import fails with ``operator torchvision::nms does not exist``, because it registers
fake kernels for two operators of that library. Declaring the two is enough: models, transforms and data sets use
neither.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from edgeres.data.preprocess import Preprocess
from edgeres.errors import BackendUnavailable, ModelError
from edgeres.model.infer import preset_name
from edgeres.settings import parse, sha256_file

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from edgeres.model.spec import ResNetSpec

_DIGITS = re.compile(r"-([0-9a-f]{8,})\.pth$")  # pattern of the first digits of the sha256 in a published file's name
_TIMEOUT = 20.0  # timeout in seconds of the server's first response
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


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
