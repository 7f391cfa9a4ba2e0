"""Batch normalisation over groups of the global batch."""

from typing import TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class Grouping(TypedDict):
    """What a network passes on to each `GroupedBatchNorm` when it is called."""

    groups: int | None
    passes: int


class GroupedBatchNorm(nnx.Module):
    """Batch norm with separate statistics per group of consecutive samples of the global batch.

    `groups` groups reproduce as many processes of the PyTorch original, each with its own batch
    statistics, on any number of devices. In a global program an ordinary batch norm would see the
    whole batch (SyncBN), which leaks through the key encoder (He et al. 2020, section 3.3).

    Several forward passes can share one call: with `passes` = P the batch holds P images per
    sample, sample after sample (row `n * P + p` is pass p of sample n), and every (group, pass)
    pair has its own statistics. The running statistics are updated as if the passes had run one
    after another.

    Conventions are PyTorch's: epsilon 1e-5, biased variance to normalise, unbiased variance in the
    running statistics, `momentum` 0.1 as the weight of the new value. Statistics are computed in
    float32 or wider.

    Args:
        features: number of channels C.
        momentum: weight of the new value in the running statistics.
        epsilon: added to the variance.
        running: source of the running statistics: 'first' (group 0, as DistributedDataParallel
            broadcasts the buffers of process 0) or 'mean' over the groups.
        scale, offset: whether the result is scaled and shifted by learnt values per channel.
        dtype: dtype of the result.
        param_dtype: dtype of scale, bias and running statistics.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        running: str = "first",
        scale: bool = True,
        offset: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.scale = nnx.Param(jnp.ones((features,), param_dtype)) if scale else None
        self.bias = nnx.Param(jnp.zeros((features,), param_dtype)) if offset else None
        self.mean = nnx.BatchStat(jnp.zeros((features,), param_dtype))
        self.var = nnx.BatchStat(jnp.ones((features,), param_dtype))
        self.momentum = momentum
        self.epsilon = epsilon
        self.running = running
        self.dtype = dtype

    def __call__(self, x: jax.Array, groups: int | None = None, passes: int = 1) -> jax.Array:
        """Normalises `x` [N * passes, H, W, C]; `groups=None` uses the running statistics."""
        if groups is None:
            return self._normalize(x, self.mean[...], self.var[...])
        rows, height, width, channels = x.shape
        samples = rows // (groups * passes)
        count = samples * height * width
        # Distances from the running mean are close to zero, so one reading of x gives the mean of
        # both distances and their squares, and their difference loses little.
        shift = jax.lax.stop_gradient(self.mean[...])
        distance = x.astype(jnp.promote_types(x.dtype, shift.dtype)) - shift

        def mean_of(values: jax.Array) -> jax.Array:
            """Averages [N * passes, H, W, C] to [groups, passes, C]."""
            # Sum within images first: grouping first would copy all of `values` in memory.
            sums = values.sum(axis=(1, 2)).reshape(groups, samples, passes, channels)
            return sums.sum(axis=1) / count

        def for_images(values: jax.Array) -> jax.Array:
            """Repeats [groups, passes, C] per image, [N * passes, 1, 1, C]."""
            shape = (groups, samples, passes, channels)
            return jnp.broadcast_to(values[:, None], shape).reshape(rows, 1, 1, channels)

        offset = mean_of(distance)
        var = jnp.maximum(mean_of(jnp.square(distance)) - jnp.square(offset), 0)
        mean = shift + offset
        self._update_running(mean, var * (count / max(count - 1, 1)))
        return self._normalize(x, for_images(mean), for_images(var))

    def _normalize(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            factor = factor * self.scale[...]
        y = (x - mean) * factor
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(self.dtype)

    def _update_running(self, mean: jax.Array, var: jax.Array) -> None:
        """Adds statistics [groups, passes, C] to the running ones, pass after pass."""
        for stat, batch_stat in ((self.mean, mean), (self.var, var)):
            per_pass = batch_stat[0] if self.running == "first" else batch_stat.mean(axis=0)
            value = stat[...]
            for new in per_pass:
                value = (1 - self.momentum) * value + self.momentum * new
            stat[...] = value
