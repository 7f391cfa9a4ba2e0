"""Colour jitter and blur of a batch, with parameters per sample.

Both have two forms with equal results up to rounding; the platform a program is lowered for
selects one. XLA for GPUs and TPUs fuses long chains of operations on planes into one pass over
memory. XLA for CPUs fuses them too, but recomputes them for every pixel that needs them; loops and
matrix products prevent that.
"""

from functools import partial

import jax
import jax.numpy as jnp

from nsneg_jax.methods.colour import CONTRAST, HUE, Planes, blend, luma, per_sample, turn_hue


def color_jitter(x: Planes, order: jax.Array, factors: jax.Array, with_hue: bool = True) -> Planes:
    """Jitters brightness, contrast, saturation and hue in an order per sample.

    Follows torchvision's `ColorJitter`.

    Args:
        x: planes, float [N, H, W] each, in [0, 1].
        order: int [N, 4], a permutation of 0..3 per row.
        factors: float [N, 4]. Brightness, contrast and saturation factor, at least 0; hue shift in
            turns. (1, 1, 1, 0) returns the picture bit for bit.
        with_hue: False leaves the hue shift out of the program.

    Returns:
        Planes like x.
    """
    # With an order per sample, a batch evaluates every operation in every place. Brightness,
    # contrast and saturation are all blends and share their places. Hue is costly and runs once,
    # with three blends before it and three after; a sample uses three of the six.
    hue_place = jnp.argmax(order == HUE, axis=1)[:, None]
    place = jnp.arange(3)
    kinds = jnp.take_along_axis(order, place + (place >= hue_place), axis=1)
    amounts = jnp.take_along_axis(factors, kinds, axis=1)
    shift = factors[:, HUE] if with_hue else None
    return jax.lax.platform_dependent(
        x,
        kinds,
        amounts,
        hue_place,
        shift,
        cpu=_jitter_in_loops,
        default=_jitter_in_two_passes,
    )


def _jitter_in_two_passes(
    x: Planes, kinds: jax.Array, amounts: jax.Array, hue_place: jax.Array, shift: jax.Array | None
) -> Planes:
    """Computes everything before contrast twice: first for the mean that contrast needs.

    Only contrast looks beyond a pixel, once per sample, so only its mean is kept between passes.
    """
    place = jnp.arange(3)

    def jittered(until: jax.Array, mean: jax.Array) -> Planes:
        """Applies the operations before place `until` [N, 1]."""

        def blends(x: Planes, active: jax.Array) -> Planes:
            for kind, amount in zip(kinds.T, jnp.where(active, amounts, 1).T, strict=True):
                x = blend(x, kind, amount, mean)
            return x

        done = blends(x, (place < hue_place) & (place < until))
        if shift is not None:
            done = turn_hue(done, jnp.where((hue_place <= until)[:, 0], shift, 0))
        return blends(done, (place >= hue_place) & (place < until))

    contrast_place = jnp.argmax(kinds == CONTRAST, axis=1)[:, None]
    before = jittered(contrast_place, jnp.zeros((), x[0].dtype))
    mean = luma(before).mean(axis=(1, 2), keepdims=True)
    return jittered(jnp.full_like(contrast_place, 3), jax.lax.optimization_barrier(mean))


def _jitter_in_loops(
    x: Planes, kinds: jax.Array, amounts: jax.Array, hue_place: jax.Array, shift: jax.Array | None
) -> Planes:
    place = jnp.arange(3)

    def one_blend(x: Planes, step: tuple[jax.Array, jax.Array]) -> tuple[Planes, None]:
        mean = luma(x).mean(axis=(1, 2), keepdims=True)
        return blend(x, *step, mean), None

    def three_blends(x: Planes, active: jax.Array) -> Planes:
        return jax.lax.scan(one_blend, x, (kinds.T, jnp.where(active, amounts, 1).T))[0]

    if shift is None:
        return three_blends(x, jnp.ones_like(kinds, bool))
    x = turn_hue(three_blends(x, place < hue_place), shift)
    return three_blends(x, place >= hue_place)


def gaussian_blur(x: Planes, sigma: jax.Array, radius: int) -> Planes:
    """Blurs with a Gaussian, one standard deviation per sample, edges repeated.

    Replaces Pillow's `ImageFilter.GaussianBlur(sigma)`, which approximates it by box blurs.

    Args:
        x: planes, float [N, H, W] each.
        sigma: float [N] in pixels; 0 returns the picture bit for bit.
        radius: reach of every kernel in pixels; three times the largest sigma is ample.
    """
    distance = jnp.arange(-radius, radius + 1)
    width = jnp.where(sigma > 0, sigma, 1).astype(x[0].dtype)[:, None]
    taps = jnp.exp(-0.5 * (distance / width) ** 2)
    taps = taps / taps.sum(axis=1, keepdims=True)
    taps = jnp.where(sigma[:, None] > 0, taps, distance == 0)
    return jax.lax.platform_dependent(x, taps, cpu=_blur_by_products, default=_blur_by_sums)


def _blur_by_sums(x: Planes, taps: jax.Array) -> Planes:
    # One direction at a time: fused, each pixel would cost the square of the number of taps.
    for axis in (1, 2):
        red, green, blue = map(
            partial(_weighted_sum, taps=taps, axis=axis), jax.lax.optimization_barrier(x)
        )
        x = red, green, blue
    return x


def _weighted_sum(plane: jax.Array, taps: jax.Array, axis: int) -> jax.Array:
    """Sums the neighbours of each pixel along `axis`, weighted by taps [N, 2 radius + 1]."""
    radius, length = taps.shape[1] // 2, plane.shape[axis]
    reach = [(0, 0, 0)] * 3
    reach[axis] = (radius, radius, 0)
    padded = jax.lax.pad(plane, jnp.zeros((), plane.dtype), reach)
    total = sum(
        per_sample(tap) * jax.lax.slice_in_dim(padded, start, start + length, axis=axis)
        for start, tap in enumerate(taps.T)
    )
    # Padding with zeros fuses into the pass, repeating the edge does not. The weight that falls on
    # the padding is added back to the edge.
    place = jnp.arange(length)[:, None] + jnp.arange(-radius, radius + 1)
    first, last = (jax.lax.slice_in_dim(plane, i, i + 1, axis=axis) for i in (0, length - 1))
    before, after = (
        jnp.expand_dims(jnp.where(beyond, taps[:, None], 0).sum(axis=2), 3 - axis)
        for beyond in (place < 0, place >= length)
    )
    return total + before * first + after * last


def _blur_by_products(x: Planes, taps: jax.Array) -> Planes:
    """Multiplies by banded matrices; a grouped convolution would take ten times as long."""
    radius = taps.shape[1] // 2
    images = jnp.stack(x, axis=-1)
    for axis, product in ((1, "noi,niwc->nowc"), (2, "noi,nhic->nhoc")):
        reach = [(0, 0)] * 4
        reach[axis] = (radius, radius)
        padded = jnp.pad(images, reach, mode="edge")
        tap = jnp.arange(padded.shape[axis]) - jnp.arange(images.shape[axis])[:, None]
        band = jnp.where((tap >= 0) & (tap <= 2 * radius), taps[:, jnp.clip(tap, 0, 2 * radius)], 0)
        images = jnp.einsum(product, band, padded, precision=jax.lax.Precision.HIGHEST)
    return images[..., 0], images[..., 1], images[..., 2]
