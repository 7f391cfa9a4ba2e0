"""Max-pooling of a network's stem, in the form that suits the platform a program is for."""

import jax
import jax.numpy as jnp

from nsneg_jax.models import cpu


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maxima at stride 2, padding 1 (PyTorch's `max_pool2d(x, 3, 2, 1)`).

    The gradient goes to the first of equal values, as in PyTorch; on CPUs they share it. Behind a
    ReLU that makes no difference in float32, where equal values are zeros, which pass none on.

    Args:
        x: [N, H, W, C].

    Returns:
        [N, ceil(H / 2), ceil(W / 2), C].
    """
    return jax.lax.platform_dependent(x, cpu=cpu.max_pool, tpu=_of_window, default=_of_taps)


def _of_window(x: jax.Array) -> jax.Array:
    """TPUs have an instruction for the gradient of this form."""
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), around)


def _of_taps(x: jax.Array) -> jax.Array:
    """On GPUs the gradient of `_of_window` would be a scatter; of this it is one pass over x."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    taps = [padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    largest, winner = taps[0], jnp.zeros(taps[0].shape, jnp.uint8)
    for place, tap in enumerate(taps[1:], 1):
        winner = jnp.where(tap > largest, jnp.uint8(place), winner)
        largest = jnp.maximum(tap, largest)
    # chosen by the winner alone, so that one byte per window is all that the gradient has to know
    winner = jax.lax.stop_gradient(winner)
    y = taps[0]
    for place, tap in enumerate(taps[1:], 1):
        y = jnp.where(winner == place, tap, y)
    return y
