"""Residual networks (He et al. 2016) in torchvision's geometry, with MoCo's projection head."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from nsneg_jax.models.convolution import convolution
from nsneg_jax.models.norm import GroupedBatchNorm

# block kind, blocks per stage
ARCHS = {
    "resnet8": ("basic", (1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
STEMS = ("imagenet", "small", "small_stride2")


# Initial values are drawn on the host: JAX's generator would compile a program for each of the
# many shapes, ten seconds of them, and draw other values in float64.


def _conv(
    inputs: int,
    outputs: int,
    size: int,
    stride: int = 1,
    *,
    rng: np.random.Generator | None,
    **options,
) -> nnx.Conv:
    # He et al. 2015, fan-out: what torchvision gives its convolutions
    std = (2 / (outputs * size * size)) ** 0.5

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        if rng is None:
            return jnp.zeros(shape, dtype)
        return jnp.asarray(rng.normal(0, std, shape), dtype)

    # symmetric explicit padding: 'SAME' pads strided convolutions unlike PyTorch
    pad = (size - 1) // 2
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(size, size),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=normal,
        conv_general_dilated=convolution,
        **options,
    )


def _max_pool(x: jax.Array) -> jax.Array:
    """3x3 maxima at stride 2, padding 1, of x [N, H, W, C].

    Of slices, because XLA on CPU takes three times as long for the gradient of a reduced window.
    Equal values share it, where PyTorch gives it to the first; after a ReLU those are zeros, which
    pass none on.
    """
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        x = jnp.pad(x, pad, constant_values=-jnp.inf)
        length = x.shape[axis]
        taps = [jax.lax.slice_in_dim(x, i, length - 2 + i, 2, axis) for i in range(3)]
        x = jnp.maximum(jnp.maximum(taps[0], taps[1]), taps[2])
    return x


def _linear(inputs: int, outputs: int, *, rng: np.random.Generator | None, **options) -> nnx.Linear:
    # PyTorch's default for nn.Linear, weight and bias alike
    bound = inputs**-0.5

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        if rng is None:
            return jnp.zeros(shape, dtype)
        return jnp.asarray(rng.uniform(-bound, bound, shape), dtype)

    return nnx.Linear(inputs, outputs, kernel_init=uniform, bias_init=uniform, **options)


class Shortcut(nnx.Module):
    """Projection on the residual path: 1x1 convolution and batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, conv: Callable, norm: Callable):
        self.conv = conv(inputs, outputs, 1, stride)
        self.norm = norm(outputs)

    def __call__(self, x: jax.Array, **batch) -> jax.Array:
        return self.norm(self.conv(x), **batch)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, *, conv: Callable, norm: Callable):
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = norm(width)
        self.downsample = _shortcut(inputs, width, stride, conv=conv, norm=norm)

    def __call__(self, x: jax.Array, **batch) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x, **batch)
        x = nnx.relu(self.bn1(self.conv1(x), **batch))
        return nnx.relu(self.bn2(self.conv2(x), **batch) + shortcut)


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1; the stride is on the 3x3 convolution, as in torchvision."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, *, conv: Callable, norm: Callable):
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = norm(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = norm(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, conv=conv, norm=norm)

    def __call__(self, x: jax.Array, **batch) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x, **batch)
        x = nnx.relu(self.bn1(self.conv1(x), **batch))
        x = nnx.relu(self.bn2(self.conv2(x), **batch))
        return nnx.relu(self.bn3(self.conv3(x), **batch) + shortcut)


def _shortcut(inputs: int, outputs: int, stride: int, **layers) -> Shortcut | None:
    return (
        None if stride == 1 and inputs == outputs else Shortcut(inputs, outputs, stride, **layers)
    )


class ResNet(nnx.Module):
    """Encoder of MoCo: a ResNet whose `fc` is the projection head.

    Parameter names follow torchvision (`conv1`, `bn1`, `layer1` ... `downsample`, `fc`), so that
    checkpoints translate by name (`nsneg_jax.models.torch_names`).

    Args:
        arch: a key of `ARCHS`. 'resnet8' has three stages of one basic block.
        dim: width of the embedding; 0 leaves the head away, for `features` alone.
        mlp: MoCo-v2's head Linear - ReLU - Linear instead of one Linear.
        width: channels of the first stage, 64 in all published networks.
        stem: 'imagenet' (7x7 stride 2, then 3x3 max-pool stride 2), 'small' (3x3 stride 1, no
            pool, for images of 64 px and less) or 'small_stride2' (3x3 stride 2, no pool).
        dtype: dtype of the computation; `param_dtype`: dtype of parameters and statistics.
        running: see `GroupedBatchNorm`.
        seed: of the initial values, which are torchvision's and PyTorch's in distribution; None
            draws none and leaves weights zero, where only shapes are asked for.
    """

    def __init__(
        self,
        arch: str,
        *,
        dim: int = 128,
        mlp: bool = True,
        width: int = 64,
        stem: str = "imagenet",
        running: str = "first",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        seed: int | None,
    ):
        kind, blocks_per_stage = ARCHS[arch]
        block = {"basic": BasicBlock, "bottleneck": Bottleneck}[kind]
        options = {"dtype": dtype, "param_dtype": param_dtype}
        rngs = nnx.Rngs(0)  # asked for by the layers, not used by our initialisers
        rng = None if seed is None else np.random.default_rng((seed, 0))
        conv = partial(_conv, rng=rng, rngs=rngs, **options)
        norm = partial(GroupedBatchNorm, running=running, **options)
        linear = partial(_linear, rng=rng, rngs=rngs, **options)

        self.stem = stem
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
        if mlp:
            self.fc = nnx.Dict(hidden=linear(inputs, inputs), output=linear(inputs, dim))
        else:
            self.fc = linear(inputs, dim)

    def features(self, x: jax.Array, groups: int | None = None, passes: int = 1) -> jax.Array:
        """Pooled features [N, num_features] of images [N, H, W, 3]; arguments as in `__call__`."""
        batch = {"groups": groups, "passes": passes}
        x = nnx.relu(self.bn1(self.conv1(x), **batch))
        if self.stem == "imagenet":
            x = _max_pool(x)
        for stage in range(self.stages):
            layer = getattr(self, f"layer{stage + 1}")
            for index in range(len(layer)):
                x = layer[f"block{index}"](x, **batch)
        return x.mean(axis=(1, 2))

    def __call__(self, x: jax.Array, groups: int | None = None, passes: int = 1) -> jax.Array:
        """Embeddings before normalisation.

        Args:
            x: images [N * passes, H, W, 3], normalised; `groups` and `passes` as in
                `GroupedBatchNorm`; `groups=None` is inference with the running statistics.

        Returns:
            [N * passes, dim] in the computation's dtype.
        """
        x = self.features(x, groups, passes)
        if isinstance(self.fc, nnx.Dict):
            return self.fc["output"](nnx.relu(self.fc["hidden"](x)))
        return self.fc(x)


def _stride(stem: str) -> int:
    return {"small": 1, "small_stride2": 2}[stem]
