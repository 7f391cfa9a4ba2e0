"""Residual networks (He et al. 2016) in torchvision's geometry, with a projection head."""

from collections.abc import Callable
from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from nsneg_jax.errors import UsageError
from nsneg_jax.models import heads
from nsneg_jax.models.layers import Conv
from nsneg_jax.models.norm import GroupedBatchNorm, Grouping
from nsneg_jax.models.pooling import max_pool

# block kind, blocks per stage
ARCHS = {
    "resnet8": ("basic", (1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
STEMS = ("imagenet", "small", "small_stride2")

MakeConv = Callable[..., Conv]
MakeNorm = Callable[..., GroupedBatchNorm]


class Shortcut(nnx.Module):
    """Projection on the residual path: 1x1 convolution and batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, conv: MakeConv, norm: MakeNorm):
        self.conv = conv(inputs, outputs, 1, stride)
        self.norm = norm(outputs)

    def __call__(self, x: jax.Array, **batch: Unpack[Grouping]) -> jax.Array:
        return self.norm(self.conv(x), **batch)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, *, conv: MakeConv, norm: MakeNorm):
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = norm(width)
        self.downsample = _shortcut(inputs, width, stride, conv=conv, norm=norm)

    def __call__(self, x: jax.Array, **batch: Unpack[Grouping]) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x, **batch)
        x = nnx.relu(self.bn1(self.conv1(x), **batch))
        return nnx.relu(self.bn2(self.conv2(x), **batch) + shortcut)


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1; the stride is on the 3x3 convolution, as in torchvision."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, *, conv: MakeConv, norm: MakeNorm):
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = norm(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = norm(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, conv=conv, norm=norm)

    def __call__(self, x: jax.Array, **batch: Unpack[Grouping]) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x, **batch)
        x = nnx.relu(self.bn1(self.conv1(x), **batch))
        x = nnx.relu(self.bn2(self.conv2(x), **batch))
        return nnx.relu(self.bn3(self.conv3(x), **batch) + shortcut)


def _shortcut(
    inputs: int, outputs: int, stride: int, *, conv: MakeConv, norm: MakeNorm
) -> Shortcut | None:
    if stride == 1 and inputs == outputs:
        return None
    return Shortcut(inputs, outputs, stride, conv=conv, norm=norm)


_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class ResNet(nnx.Module):
    """A ResNet whose `fc` is the projection head, `models.encoder.HEAD`.

    Parameter names follow torchvision (`conv1`, `bn1`, `layer1` ... `downsample`, `fc`), so that
    checkpoints translate by name (`nsneg_jax.pytorch.names`).

    Args:
        arch: a key of `ARCHS`. 'resnet8' has three stages of one basic block.
        dim: length of the embedding; 0 leaves the head out, for `features` alone.
        mlp: whether the head 'moco' is MoCo-v2's Linear - ReLU - Linear instead of one Linear.
        head: 'moco', or a key of `heads.PROJECTIONS`.
        head_hidden: hidden units of such a head; 0 for the published number.
        width: channels of the first stage, 64 in all published networks.
        stem: 'imagenet' (7x7 stride 2, then 3x3 max-pool stride 2), 'small' (3x3 stride 1, no
            pool, for images of at most 64 px) or 'small_stride2' (3x3 stride 2, no pool).
        bn_running: `running` of `GroupedBatchNorm`.
        remat: whether to compute the blocks again in the backward pass, in place of keeping their
            activations: less memory for a third more products, the same results.
        dtype: dtype of the computation.
        param_dtype: dtype of parameters and statistics.
        seed: seed of the initial values, which have the distributions of torchvision and PyTorch;
            None leaves weights zero, if only shapes are needed.

    Raises:
        UsageError: there is no such stem or head.
    """

    def __init__(
        self,
        arch: str,
        *,
        dim: int = 128,
        mlp: bool = True,
        head: str = heads.MOCO,
        head_hidden: int = 0,
        width: int = 64,
        stem: str = "imagenet",
        bn_running: str = "first",
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        seed: int | None,
    ):
        if stem not in STEMS:
            raise UsageError(f"stem is {stem!r}, but must be one of {', '.join(map(repr, STEMS))}.")
        kind, blocks_per_stage = ARCHS[arch]
        block = _BLOCKS[kind]
        rng = None if seed is None else np.random.default_rng((seed, 0))
        conv = partial(Conv, rng=rng, dtype=dtype, param_dtype=param_dtype)
        norm = partial(GroupedBatchNorm, running=bn_running, dtype=dtype, param_dtype=param_dtype)

        self.stem, self.remat = stem, remat
        self.conv1 = (
            conv(3, width, 7, 2) if stem == "imagenet" else conv(3, width, 3, _stride(stem))
        )
        self.bn1 = norm(width)
        self.stages = len(blocks_per_stage)
        inputs = width
        for stage, count in enumerate(blocks_per_stage):
            blocks = {}
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                stage_width = width * 2**stage
                blocks[f"block{index}"] = block(inputs, stage_width, stride, conv=conv, norm=norm)
                inputs = stage_width * block.expansion
            setattr(self, f"layer{stage + 1}", nnx.Dict(blocks))
        self.num_features = inputs
        if dim == 0:
            return
        self.fc = heads.projection(
            head,
            inputs,
            dim,
            mlp=mlp,
            hidden=head_hidden,
            running=bn_running,
            rng=rng,
            dtype=dtype,
            param_dtype=param_dtype,
        )

    def features(self, x: jax.Array, groups: int | None = None, passes: int = 1) -> jax.Array:
        """Returns pooled features [N * passes, num_features]; takes arguments like `__call__`."""
        batch: Grouping = {"groups": groups, "passes": passes}

        def run(block: BasicBlock | Bottleneck, x: jax.Array) -> jax.Array:
            return block(x, **batch)

        if self.remat:
            run = nnx.remat(run)
        x = nnx.relu(self.bn1(self.conv1(x), **batch))
        if self.stem == "imagenet":
            x = max_pool(x)
        for stage in range(self.stages):
            layer = getattr(self, f"layer{stage + 1}")
            for index in range(len(layer)):
                x = run(layer[f"block{index}"], x)
        return x.mean(axis=(1, 2))

    def __call__(self, x: jax.Array, groups: int | None = None, passes: int = 1) -> jax.Array:
        """Returns embeddings, not scaled to unit length.

        Args:
            x: images [N * passes, H, W, 3], normalised.
            groups: see `GroupedBatchNorm`; None uses the running statistics, for inference.
            passes: see `GroupedBatchNorm`.

        Returns:
            [N * passes, dim] in the computation's dtype.
        """
        x = self.features(x, groups, passes)
        return heads.project(self.fc, x, groups, passes)


def _stride(stem: str) -> int:
    return {"small": 1, "small_stride2": 2}[stem]
