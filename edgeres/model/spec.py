"""``ResNetSpec``: a residual network as a frozen value.

Sources: He et al. 2015 (arXiv 1512.03385) for v1 and the CIFAR family of section 4.2, He et al. 2016 (arXiv
1603.05027) for pre-activation, Xie et al. 2017 (arXiv 1611.05431) for ResNeXt, Zagoruyko 2016 (arXiv 1605.07146) for
wide networks, Hu et al. 2018 (arXiv 1709.01507) for squeeze and excitation; v1.5 (stride in the 3x3) is torchvision's.
He et al. 2018 (arXiv 1812.01187) for the deep stem and the average-pooled shortcut of ResNet-C and -D, Wang et al. 2019
(arXiv 1910.03151) for efficient channel attention, Zhang 2019 (arXiv 1904.11486) for anti-aliased downsampling, Bello
et al. 2021 (arXiv 2103.07579) for ResNet-RS, whose stem is pooled by a convolution, Radford et al. 2021 (arXiv
2103.00020) for CLIP's ResNets, whose stem is pooled by an average, Wu and He 2018 (arXiv 1803.08494) for group
normalization, and Deng et al. 2018 (arXiv 1801.07698) for the blocks and the head of ArcFace.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field

from edgeres.data.size import Size
from edgeres.errors import ModelError
from edgeres.settings import settings

Kind = Literal["basic", "bottleneck"]
Shortcut = Literal["projection", "padding"]
Pooling = Literal["max", "convolution", "average"]
Antialias = Literal["none", "blur", "average"]
Activation = Literal["relu", "silu", "prelu"]
Normalization = Literal["batch", "group"]
Padding = Literal["even", "same"]
Count = Annotated[int, Field(ge=1, le=1 << 20)]

WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin", ".tar"})  # suffixes of weight files


@settings
class Stem:
    """First convolutions, with ``kernel // 2`` padding, and the pooling with stride 2 that may follow them.

    ``inner`` are the widths of the convolutions before the last one, whose width is ``width``: none in the classic
    stem, two in the deep one. The first has ``stride``, the last one ``last_stride``. ``bare`` of them, the first ones,
    have neither norm nor activation. ``pooling`` is by a maximum over 3x3, by a 3x3 convolution with norm and
    activation, which has ``pool_width`` channels (0 for ``width``), or by an average over 2x2. ``zero_frame`` says that
    a maximum sees zeros around the image, as the fixed padding of Big Transfer does (arXiv 1912.11370), where the
    customary one sees nothing. ``pool_padding`` is that of a maximum; see ``ResNetSpec.padding``.
    ``normed`` says that in a pre-activation network too the last convolution has a norm and an activation, as in
    GluonCV's.
    """

    width: Count = 64
    kernel: Count = 7
    stride: Count = 2
    pool: bool = True
    inner: tuple[Count, ...] = ()
    last_stride: Count = 1
    bare: Annotated[int, Field(ge=0)] = 0
    pooling: Pooling = "max"
    pool_width: Annotated[int, Field(ge=0)] = 0
    zero_frame: bool = False
    pool_padding: Padding = "even"
    normed: bool = False

    @property
    def out(self) -> int:
        """Channels that the first stage reads."""
        return self.pool_width or self.width


@settings
class Block:
    """One residual block.

    ``inner`` are the widths between its convolutions: one for a basic block, two for a bottleneck, whose 3x3 has
    ``groups``. ``out`` are the channels of the residual stream after it. The identity of a ``projected`` block goes
    through a 1x1 convolution. ``squeeze`` is the width of the squeeze-and-excitation bottleneck, ``eca`` the kernel of
    efficient channel attention; 0 for none. ``dilation`` is that of a bottleneck's 3x3.
    """

    inner: tuple[Count, ...]
    out: Count
    stride: Count = 1
    groups: Count = 1
    projected: bool = False
    squeeze: Annotated[int, Field(ge=0)] = 0
    eca: Annotated[int, Field(ge=0)] = 0
    dilation: Count = 1


@settings
class ResNetSpec:
    """A residual network without its weights.

    Blocks are basic (3x3, 3x3) or bottlenecks (1x1, 3x3, 1x1). An identity changes shape by a 1x1 projection (option B)
    or by strided zero-padding (option A). The stride of a bottleneck is in its 3x3 (v1.5) or in its first 1x1 (the
    paper's). ``preactivation`` is the order of v2: norm and ReLU before each convolution. ``norm`` is False once batch
    norms are folded; a pre-activation network keeps those after a residual add.

    ``downsample`` is how a projection with a stride makes its input smaller: by its own stride, or by an average over
    2x2. ``antialias`` takes the stride out of the last 3x3 and of the max-pool of a stem into a filter after them: a
    3x3 binomial one over reflected borders, or an average over 2x2. ``attention`` says whether a block's channel
    attention follows its last convolution or its 3x3. ``features`` is the width of a 1x1 convolution with norm and
    activation before the global pool; 0 for none. ``eps`` is added to the variance by every norm; ``norm_groups`` are
    those of group normalization.

    ``padding`` is that of convolutions with a stride: ``even``, ``kernel // 2`` on each side, or TensorFlow's ``same``,
    which adds a row and a column at the end alone where a 3x3 halves an even image.

    ``leading_norm`` is the order of ArcFace: a norm before the first convolution of a block, no activation behind the
    add, and the stride in the second 3x3; its head has a norm, takes the features of ``grid`` pixels without pooling,
    and normalizes its outputs. ``grid`` is (0, 0) where a global pool makes them one pixel.

    ``attention_heads`` pool the features by an attention of their mean over ``grid`` pixels, as CLIP's do; 0 for a
    mean. ``hidden`` is the width of a hidden layer of the classifier, behind a norm of the pooled features; 0 for none.
    """

    kind: Kind
    stem: Stem
    stages: tuple[tuple[Block, ...], ...]
    classes: Count = 1000
    channels: Count = 3
    shortcut: Shortcut = "projection"
    stride_in: Literal["3x3", "1x1"] = "3x3"
    preactivation: bool = False
    norm: bool = True
    downsample: Literal["stride", "average"] = "stride"
    antialias: Antialias = "none"
    activation: Activation = "relu"
    attention: Literal["block", "3x3"] = "block"
    features: Annotated[int, Field(ge=0)] = 0
    normalization: Normalization = "batch"
    norm_groups: Count = 32
    leading_norm: bool = False
    grid: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)
    padding: Padding = "even"
    attention_heads: Annotated[int, Field(ge=0)] = 0
    hidden: Annotated[int, Field(ge=0)] = 0
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    def __post_init__(self) -> None:
        if not self.stages or not all(self.stages):
            raise ModelError("a network needs at least one stage, and every stage a block")
        if self.stem.kernel % 2 == 0:
            raise ModelError(f"stem kernel {self.stem.kernel} is even", "padding of kernel // 2 wants an odd kernel")
        if self.stem.pool_width and not (self.stem.pool and self.stem.pooling == "convolution"):
            raise ModelError(f"a pool of {self.stem.pool_width} channels", "only a convolution changes their number")
        if self.stem.bare > len(self.stem.inner):
            raise ModelError(f"{self.stem.bare} bare convolutions", "the last one of a stem has a norm")
        if self.preactivation and (self.antialias != "none" or self.features or self.stem.bare):
            what = "a pre-activation network with anti-aliasing, features before the pool or bare convolutions"
            raise ModelError(what, "no published network has both")
        if self.leading_norm and (self.kind == "bottleneck" or self.preactivation or self.normalization == "group"):
            raise ModelError("a leading norm in another block than a basic one of v1", "no published network has it")
        self._check_head()
        self._check_blocks()

    def _check_head(self) -> None:
        if (self.attention_heads > 0 or self.leading_norm) != all(self.grid) or (self.attention_heads and self.hidden):
            raise ModelError(
                f"a head for features of {self.grid[0]}x{self.grid[1]} pixels", "no published network has it"
            )
        if self.attention_heads and self.stages[-1][-1].out % self.attention_heads:
            raise ModelError(f"{self.stages[-1][-1].out} channels in {self.attention_heads} heads of attention")

    def _check_blocks(self) -> None:
        expected = 2 if self.kind == "bottleneck" else 1
        for name, width, block in self.blocks:
            if len(block.inner) != expected:
                raise ModelError(f"{name}: {len(block.inner)} inner widths, a {self.kind} block has {expected}")
            if self.kind == "basic" and block.groups != 1:
                raise ModelError(f"{name}: {block.groups} groups", "only the 3x3 of a bottleneck has groups")
            if any(inner % block.groups for inner in block.inner):
                raise ModelError(f"{name}: widths {block.inner} do not divide into {block.groups} groups")
            if block.squeeze and block.eca:
                raise ModelError(f"{name}: squeeze and excitation beside channel attention", "a block has one of them")
            if block.eca and block.eca % 2 == 0:
                raise ModelError(f"{name}: channel attention over {block.eca} channels", "its kernel is odd")
            if self.kind == "basic" and block.dilation != 1:
                raise ModelError(f"{name}: dilation {block.dilation}", "only the 3x3 of a bottleneck is dilated")
            if not block.projected and block.out < width:
                raise ModelError(f"{name}: an identity of {width} channels cannot be padded to {block.out}")

    @property
    def image_size(self) -> Size:
        """Customary size of an image: ImageNet's 224 pixels, CIFAR's 32 for a stem of one convolution without a pool.

        A head that reads every pixel of the features takes one size alone: its grid times the strides before it.
        """
        if any(self.grid):
            stem = self.stem.stride * (self.stem.last_stride if self.stem.inner else 1) * (2 if self.stem.pool else 1)
            stride = stem * prod(block.stride for _, _, block in self.blocks)
            return Size(self.grid[0] * stride, self.grid[1] * stride)
        return Size.square(224 if self.stem.pool or self.stem.inner else 32)

    @property
    def blocks(self) -> tuple[tuple[str, int, Block], ...]:
        """Every block in order as ``(name, input channels, block)``, named as torchvision names it: ``layer1.0``."""
        blocks: list[tuple[str, int, Block]] = []
        width = self.stem.out
        for number, stage in enumerate(self.stages, start=1):
            for index, block in enumerate(stage):
                blocks.append((f"layer{number}.{index}", width, block))
                width = block.out
        return tuple(blocks)
