"""Max-pooling of a network's stem, in the form that suits the platform a program runs on."""

import jax
import jax.numpy as jnp

from nsneg_jax.models import cpu


def max_pool(x: jax.Array) -> jax.Array:
    """Takes 3x3 maxima at stride 2 with padding 1 (PyTorch's `max_pool2d(x, 3, 2, 1)`).

    The gradient goes to the first of equal values, as in PyTorch; on CPUs they share it. After a
    ReLU this makes no difference in float32: equal values are then zeros, whose gradient is zero.

    Args:
        x: float [N, H, W, C].

    Returns:
        [N, ceil(H / 2), ceil(W / 2), C] in the dtype of x.
    """
    return jax.lax.platform_dependent(x, cpu=cpu.max_pool, tpu=_of_window, default=_of_taps)


def _of_window(x: jax.Array) -> jax.Array:
    """Pools by `reduce_window`, whose gradient is one instruction on TPUs."""
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), around)


def _of_taps(x: jax.Array) -> jax.Array:
    """Pools over shifted slices; the gradient is one pass over x, where a window's is a scatter."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    taps = [padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    largest, winner = taps[0], jnp.zeros(taps[0].shape, jnp.uint8)
    for place, tap in enumerate(taps[1:], 1):
        winner = jnp.where(tap > largest, jnp.uint8(place), winner)
        largest = jnp.maximum(tap, largest)
    # Select by the winner alone, so that the gradient needs only one byte per window.
    winner = jax.lax.stop_gradient(winner)
    y = taps[0]
    for place, tap in enumerate(taps[1:], 1):
        y = jnp.where(winner == place, tap, y)
    return y
