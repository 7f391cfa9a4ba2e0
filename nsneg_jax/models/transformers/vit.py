"""Vision transformers (Dosovitskiy et al. 2021) as MoCo-v3 trains them (Chen et al. 2021)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from nsneg_jax.errors import UsageError
from nsneg_jax.models import heads
from nsneg_jax.models.layers import Linear
from nsneg_jax.models.transformers.tokens import TokenProjection, interpolated, sincos_positions

# features per unit of `width`, heads, blocks
ARCHS = {"vit_tiny": (3, 3, 12), "vit_small": (6, 12, 12), "vit_base": (12, 12, 12)}
POSITIONS = ("sincos", "learnable")
POOLINGS = ("class", "mean")

_EPSILON = 1e-6
_HIDDEN = 4  # width of an MLP's hidden layer, in features
_POSITION_STD = 0.02
_SIDE = 8


class LayerNorm(nnx.Module):
    """Layer norm over the features, with statistics in float32 or wider.

    Args:
        features: number of features W.
        dtype: dtype of the result.
        param_dtype: dtype of scale and bias.
    """

    def __init__(self, features: int, *, dtype: DTypeLike, param_dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((features,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((features,), param_dtype))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [..., W]."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        distance = wide - wide.mean(axis=-1, keepdims=True)
        var = jnp.square(distance).mean(axis=-1, keepdims=True)
        normal = distance * jax.lax.rsqrt(var + _EPSILON)
        return (normal * self.scale[...] + self.bias[...]).astype(self.dtype)


class Attention(nnx.Module):
    """Self-attention of several heads, with one projection to queries, keys and values."""

    def __init__(self, features: int, heads: int, *, draws: "_Draws"):
        self.qkv = draws.linear(features, 3 * features, parts=3)
        self.proj = draws.linear(features, features)
        self.heads = heads

    def __call__(self, x: jax.Array, real: int) -> jax.Array:
        """Maps [N, T, W] to [N, T, W], of which the first `real` tokens are attended to."""
        count, tokens, features = x.shape
        shape = (count, tokens, 3, self.heads, features // self.heads)
        qkv = _each_token(self.qkv, x).reshape(shape)
        y = _attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], real)
        return _each_token(self.proj, y.reshape(count, tokens, features))


class Mlp(nnx.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, features: int, *, draws: "_Draws"):
        self.fc1 = draws.linear(features, _HIDDEN * features)
        self.fc2 = draws.linear(_HIDDEN * features, features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, T, W] to [N, T, W]."""
        return _each_token(self.fc2, jax.nn.gelu(_each_token(self.fc1, x), approximate=False))


class Block(nnx.Module):
    """Attention and MLP, each after a layer norm and with a residual path."""

    def __init__(self, features: int, heads: int, *, draws: "_Draws"):
        self.norm1 = draws.norm(features)
        self.attn = Attention(features, heads, draws=draws)
        self.norm2 = draws.norm(features)
        self.mlp = Mlp(features, draws=draws)

    def __call__(self, x: jax.Array, real: int) -> jax.Array:
        """Maps [N, T, W] to [N, T, W]; see `Attention`."""
        x = x + self.attn(self.norm1(x), real)
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    """A ViT whose `fc` is the projection head, `models.encoder.HEAD`.

    Parameter names follow timm (`patch_embed.proj`, `cls_token`, `blocks` ... `norm`), so that
    checkpoints translate by name (`nsneg_jax.pytorch.names`). Initial values are MoCo-v3's: uniform
    by Xavier's rule, with queries, keys and values apart; the class token's are almost zero.

    Args:
        arch: a key of `ARCHS`. Features are `width` times 3, 6 or 12.
        dim: length of the embedding; 0 leaves the head out, for `features` alone.
        mlp: whether the head 'moco' is MoCo-v2's Linear - ReLU - Linear instead of one Linear.
        head: 'moco', or a key of `heads.PROJECTIONS`.
        head_hidden: hidden units of such a head; 0 for the published number.
        bn_running: `running` of `GroupedBatchNorm`, in such a head.
        width: 64 in all published networks, which have 192, 384 and 768 features.
        token_size: side in pixels of the square that becomes a token; divides the sides of images.
        blocks: number of blocks; 0 for the 12 of the published networks.
        attention_heads: heads of each block; 0 for 3, 12 and 12. MoCo-v3 gives ViT-S 12 heads,
            where DeiT, DINO and timm give it 6; weights trained with one number are of no use
            with the other.
        positions: 'sincos', fixed sines and cosines of row and column, or 'learnable'.
        position_grid: side of the grid of learnable positions, in tokens. Images with another
            grid take them interpolated.
        token_pooling: features of an image: the 'class' token after the last norm, or the 'mean'
            of the other tokens.
        freeze_tokens: whether the projection of pixels to tokens keeps its random initial values,
            without which MoCo-v3 is not stable. They are then no parameters, so that neither a
            gradient nor weight decay moves them.
        remat: whether to compute the blocks again in the backward pass, in place of keeping their
            activations: less memory for a third more products.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
        seed: seed of the initial values; None leaves them zero.

    Raises:
        UsageError: a setting is out of range, or does not fit the others.
    """

    def __init__(
        self,
        arch: str,
        *,
        dim: int = 128,
        mlp: bool = True,
        head: str = heads.MOCO,
        head_hidden: int = 0,
        bn_running: str = "first",
        width: int = 64,
        token_size: int = 16,
        blocks: int = 0,
        attention_heads: int = 0,
        positions: str = "sincos",
        position_grid: int = 14,
        token_pooling: str = "class",
        freeze_tokens: bool = True,
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        seed: int | None = 0,
    ):
        factor, own_heads, own_blocks = ARCHS[arch]
        features, in_parallel = factor * width, attention_heads or own_heads
        check_sizes(features, in_parallel, positions, token_pooling)
        draws = _Draws(seed, dtype, param_dtype)
        self.num_features = features
        self.token_size = token_size
        self.depth = blocks or own_blocks
        self.token_pooling = token_pooling
        self.remat = remat
        self.dtype = dtype
        self.patch_embed = TokenProjection(
            token_size, features, frozen=freeze_tokens, rng=draws.rng, param_dtype=param_dtype
        )
        self.cls_token = nnx.Param(draws.normal(1e-6, 1, 1, features))
        self.learns_positions = positions == "learnable"
        if self.learns_positions:
            places = 1 + position_grid**2
            self.pos_embed = nnx.Param(draws.normal(_POSITION_STD, 1, places, features))
        self.blocks = nnx.Dict(
            {
                f"block{index}": Block(features, in_parallel, draws=draws)
                for index in range(self.depth)
            }
        )
        self.norm = draws.norm(features)
        if dim == 0:
            return
        self.fc = heads.projection(
            head,
            features,
            dim,
            mlp=mlp,
            hidden=head_hidden,
            running=bn_running,
            rng=draws.rng,
            dtype=dtype,
            param_dtype=param_dtype,
        )

    def features(self, x: jax.Array, groups: int | None = None, passes: int = 1) -> jax.Array:
        """Returns features [N * passes, num_features]; takes arguments like `__call__`."""
        rows, columns = self._grid(x)
        x = self.patch_embed(x.astype(self.dtype))
        class_token = jnp.broadcast_to(
            self.cls_token[...].astype(self.dtype), (x.shape[0], 1, self.num_features)
        )
        x = jnp.concatenate([class_token, x], axis=1)
        x = (x + self._positions(rows, columns)).astype(self.dtype)
        real = 1 + rows * columns
        x = jnp.pad(x, ((0, 0), (0, _padding(real, self.dtype)), (0, 0)))
        block = nnx.remat(Block.__call__, static_argnums=2) if self.remat else Block.__call__
        for index in range(self.depth):
            x = block(self.blocks[f"block{index}"], x, real)
        if self.token_pooling == "mean":
            return self.norm(x)[:, 1:real].mean(axis=1)
        return self.norm(x[:, 0])

    def __call__(self, x: jax.Array, groups: int | None = None, passes: int = 1) -> jax.Array:
        """Returns embeddings, not scaled to unit length.

        Args:
            x: images [N * passes, H, W, 3], normalised; `token_size` divides H and W.
            groups, passes: see `GroupedBatchNorm`; a head without batch norm ignores them.

        Returns:
            [N * passes, dim] in the computation's dtype.

        Raises:
            UsageError: `token_size` does not divide H and W.
        """
        x = self.features(x, groups, passes)
        return heads.project(self.fc, x, groups, passes)

    def _grid(self, x: jax.Array) -> tuple[int, int]:
        sides = x.shape[1:3]
        if any(side % self.token_size or not side for side in sides):
            raise UsageError(
                f"The images have {sides[0]} x {sides[1]} pixels, but a ViT with tokens of "
                f"{self.token_size} pixels needs sides that are multiples of {self.token_size}. "
                "Give images of another size, or set model.token_size before training."
            )
        return sides[0] // self.token_size, sides[1] // self.token_size

    def _positions(self, rows: int, columns: int) -> jax.Array:
        """Returns positions [1, 1 + rows * columns, W], in the parameters' dtype."""
        if self.learns_positions:
            return interpolated(self.pos_embed[...], rows, columns)
        values = sincos_positions(rows, columns, self.num_features)
        return jnp.asarray(values, self.cls_token[...].dtype)


def check_sizes(features: int, heads: int, positions: str, token_pooling: str) -> None:
    """Checks settings of a ViT that depend on each other.

    Raises:
        UsageError: they do not fit together, or a name is unknown.
    """
    for name, value, known in (
        ("positions", positions, POSITIONS),
        ("token_pooling", token_pooling, POOLINGS),
    ):
        if value not in known:
            raise UsageError(
                f"{name} is {value!r}, but must be one of {', '.join(map(repr, known))}."
            )
    if features % heads:
        raise UsageError(
            f"The ViT has {features} features, which attention_heads={heads} does not divide. "
            "Give a divisor, or another width."
        )
    if positions == "sincos" and features % 4:
        raise UsageError(
            f"The ViT has {features} features, but positions='sincos' need a multiple of 4: sines "
            "and cosines of rows and columns. Give another width, or positions='learnable'."
        )


class _Draws:
    """Makes the layers of a ViT with MoCo-v3's initial values, drawn on the host."""

    def __init__(self, seed: int | None, dtype: DTypeLike, param_dtype: DTypeLike):
        self.rng = None if seed is None else np.random.default_rng((seed, 0))
        self.dtype = dtype
        self.param_dtype = param_dtype

    def norm(self, features: int) -> LayerNorm:
        return LayerNorm(features, dtype=self.dtype, param_dtype=self.param_dtype)

    def normal(self, std: float, *shape: int) -> jax.Array:
        values = np.zeros(shape) if self.rng is None else self.rng.normal(0, std, shape)
        return jnp.asarray(values, self.param_dtype)

    def linear(self, inputs: int, outputs: int, parts: int = 1) -> Linear:
        """Makes a layer with Xavier's uniform values; `parts` share a kernel without sharing it."""
        layer = Linear(inputs, outputs, rng=None, dtype=self.dtype, param_dtype=self.param_dtype)
        if self.rng is not None:
            bound = (6 / (inputs + outputs // parts)) ** 0.5
            values = self.rng.uniform(-bound, bound, (inputs, outputs))
            layer.kernel[...] = jnp.asarray(values, self.param_dtype)
        return layer


def _each_token(layer: Linear, x: jax.Array) -> jax.Array:
    """Applies a layer to x [N, T, W] as one matrix product of N * T rows."""
    count, tokens, features = x.shape
    y = layer(x.reshape(count * tokens, features))
    return y.reshape(count, tokens, y.shape[1])


def _padding(tokens: int, dtype: DTypeLike) -> int:
    """Returns how many tokens to add, which nothing attends to.

    GPUs multiply half-precision matrices whose sides are multiples of 8. XLA would pad and cut
    the factors of each product.
    """
    return -tokens % _SIDE if jnp.finfo(dtype).bits == 16 else 0


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, real: int) -> jax.Array:
    """Mixes the first `real` of the values v [N, T, H, D] by the softmax of q.k / sqrt(D)."""
    if q.dtype == jnp.float64:
        # JAX's function rounds its softmax to float32.
        logits = jnp.einsum("nqhd,nkhd->nhqk", q, k) * q.shape[-1] ** -0.5
        return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(logits), v)
    tokens = q.shape[1]
    mask = None if real == tokens else (jnp.arange(tokens) < real)[None, None, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)
