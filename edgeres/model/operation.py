"""``Op``: one operation of a network's graph, and the sizes and weights that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

OpKind = Literal[
    "conv",
    "norm",
    "groupnorm",
    "relu",
    "silu",
    "prelu",
    "maxpool",
    "avgpool",
    "blur",
    "pad",
    "subsample",
    "zeropad",
    "add",
    "gap",
    "channelconv",
    "tokens",
    "attention",
    "sigmoid",
    "mul",
    "flatten",
    "linear",
    "operator",
]

IMAGE = "image"  # name of the input tensor
NORM_EPS = 1e-5  # added to the variance by batch norms, where a network states nothing else: torch's value
BLUR = (1, 2, 1)
"""Row and column factors of a 3x3 binomial filter (Zhang 2019, arXiv 1904.11486); their products sum up to 16."""


class Window(NamedTuple):
    """Window of a convolution over ``[N,C,H,W]``, vertical before horizontal.

    Attributes:
        pads: Rows above, columns left, rows below, columns right, all of zeros.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on ``[N,C,H,W]`` tensors; its inputs are names of tensors.

    ``subsample`` takes every ``stride``-th pixel, ``zeropad`` adds zero channels on both sides, ``pad`` adds
    ``kernel // 2`` pixels around the image: zeros, or the image reflected about its border (``reflected``). ``gap`` is
    the global average pool to ``[N,C,1,1]``, ``mul`` broadcasts ``[N,C,1,1]`` over ``[N,C,H,W]``, and ``channelconv``
    convolves along the channels of ``[N,C,1,1]`` with one kernel ``[1,1,k]``. ``blur`` filters each channel by the
    binomial ``BLUR``; ``prelu`` has one slope per channel for negative values. ``add`` reads the residual branch first,
    the identity second. ``groupnorm`` has ``groups``.

    ``tokens`` lists the mean of all pixels and the pixels as ``[N,C,kernel,1]``, and adds a position to each, which is
    its weight ``[kernel,C]``. ``attention`` reads one query ``[N,C,1,1]`` and keys and values ``[N,C,kernel,1]``, and
    sums up the values by the softmax of the products of query and key, divided by the root of the width of its
    ``groups`` heads (Vaswani et al. 2017, arXiv 1706.03762, section 3.2).

    A pool or convolution is padded by zeros, or a max-pool by nothing, unless it is ``valid``: ``kernel // 2`` on each
    side, or with ``same`` as TensorFlow's SAME does, by no more than the windows reach, an odd pixel at the end. A
    ``ceil`` average pool also takes the mean of incomplete windows at the end, over their pixels alone.

    Operations of an imported graph have a ``shape``, that of their output for one image, and their convolutions a
    ``stated`` window. ``operator`` is any ONNX operator: the graph computes it from its inputs and its constants, whose
    shapes are ``constants`` by key. ``linear`` multiplies along the last axis.
    """

    kind: OpKind
    name: str
    inputs: tuple[str, ...]
    c_in: int
    c_out: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    dilation: int = 1
    valid: bool = False
    same: bool = False
    ceil: bool = False
    reflected: bool = False
    eps: float = NORM_EPS
    stated: Window | None = None
    shape: tuple[int, ...] = ()
    operator: str = ""
    constants: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def window(self) -> Window:
        """Window of a convolution."""
        if self.stated is not None:
            return self.stated
        return Window((self.kernel,) * 2, (self.stride,) * 2, (self.padding,) * 4, (self.dilation,) * 2)

    @property
    def reads(self) -> int:
        """Number of weights that one output value of a convolution or matrix product has."""
        return self.c_in // self.groups * (prod(self.window.kernel) if self.kind == "conv" else 1)

    @property
    def rows(self) -> bool:
        """Whether a matrix product reads rows ``[...,C]`` of more than one position per image, such as tokens."""
        return self.kind == "linear" and len(self.shape) > 1

    @property
    def padding(self) -> int:
        """Zero padding on each side of a convolution or pool, or pixels that a ``pad`` adds there; see ``pads``."""
        return 0 if self.valid else self.dilation * (self.kernel // 2)

    def pads(self, sides: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Padding of an image of that height and width: rows above, columns left, rows below, columns right.

        SAME pads an axis by ``max((ceil(side / stride) - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)`` in all.
        """
        if self.stated is not None:
            return self.stated.pads
        if not self.same:
            return (self.padding,) * 4
        reach = self.dilation * (self.kernel - 1) + 1
        rows, columns = (max((-(-side // self.stride) - 1) * self.stride + reach - side, 0) for side in sides)
        return rows // 2, columns // 2, rows - rows // 2, columns - columns // 2

    def side(self, length: int) -> int:
        """Height or width of the output for one of the input, in pixels."""
        match self.kind:
            case "flatten" | "linear" | "gap":
                return 1
            case "pad":
                return length + 2 * self.padding
            case "conv" | "maxpool" | "subsample" | "avgpool" | "blur":
                free = length + 2 * self.padding - self.dilation * (self.kernel - 1) - 1
                return (-(-free // self.stride) if self.ceil else free // self.stride) + 1
        return length

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-accumulates of all channels of one pixel of the output; 0 for an operation without weights."""
        match self.kind:
            case "blur":
                return self.c_out * self.kernel**2
            case "channelconv":
                return self.c_out * self.kernel
            case "attention":
                return 2 * self.c_out * self.kernel
            case "conv" | "linear":
                return prod(self.parameters[f"{self.name}.weight"])
        return 0

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """State-dict keys of this operation with their shapes."""
        shapes: dict[str, tuple[int, ...]] = {}
        match self.kind:
            case "conv":
                shapes["weight"] = (self.c_out, self.c_in // self.groups, *self.window.kernel)
            case "linear":
                shapes["weight"] = (self.c_out, self.c_in)
            case "norm":
                shapes = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (self.c_out,))
            case "groupnorm":
                shapes = dict.fromkeys(("weight", "bias"), (self.c_out,))
            case "channelconv":
                shapes["weight"] = (1, 1, self.kernel)
            case "prelu":
                shapes["weight"] = (self.c_out,)
            case "tokens":
                shapes["weight"] = (self.kernel, self.c_out)
            case "operator":
                shapes = dict(self.constants)
        if self.bias:
            shapes["bias"] = (self.c_out,)
        return {f"{self.name}.{key}": shape for key, shape in shapes.items()}
