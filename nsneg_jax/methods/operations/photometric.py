"""Colour jitter and blur of a batch, with parameters per sample.

Both have two forms with equal results up to rounding; the platform a program is lowered for
selects one. XLA for GPUs and TPUs fuses long chains of operations on planes into one pass over
memory. XLA for CPUs fuses them too, but recomputes them for every pixel that needs them; loops and
matrix products prevent that.
"""

import math
from functools import partial, reduce

import jax
import jax.numpy as jnp

from nsneg_jax.methods.operations.colour import CONTRAST, HUE, Planes, blend, mean_luma, turn_hue


def color_jitter(
    x: Planes,
    order: jax.Array,
    factors: jax.Array,
    with_hue: bool = True,
    whole_levels: bool = False,
) -> Planes:
    """Jitters brightness, contrast, saturation and hue in an order per sample.

    Follows torchvision's `ColorJitter`.

    Args:
        x: planes, float [N, H, W] each, in [0, 1].
        order: int [N, 4], a permutation of 0..3 per row.
        factors: float [N, 4]. Brightness, contrast and saturation factor, at least 0; hue shift in
            turns. (1, 1, 1, 0) returns the picture bit for bit.
        with_hue: False leaves the hue shift out of the program.
        whole_levels: whether brightness, contrast and saturation round down to whole levels of 255,
            as Pillow's do. The hue shift does not round.

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
        cpu=partial(_jitter_in_loops, whole_levels),
        default=partial(_jitter_in_two_passes, whole_levels),
    )


def _jitter_in_two_passes(
    whole_levels: bool,
    x: Planes,
    kinds: jax.Array,
    amounts: jax.Array,
    hue_place: jax.Array,
    shift: jax.Array | None,
) -> Planes:
    """Computes everything before contrast twice: first for the mean that contrast needs.

    Only contrast looks beyond a pixel, once per sample, so only its mean is kept between passes.
    """
    place = jnp.arange(3)

    def jittered(until: jax.Array, mean: jax.Array) -> Planes:
        """Applies the operations before place `until` [N, 1]."""

        def blends(x: Planes, active: jax.Array) -> Planes:
            for kind, amount in zip(kinds.T, jnp.where(active, amounts, 1).T, strict=True):
                x = blend(x, kind, amount, mean, whole_levels)
            return x

        done = blends(x, (place < hue_place) & (place < until))
        if shift is not None:
            done = turn_hue(done, jnp.where((hue_place <= until)[:, 0], shift, 0))
        return blends(done, (place >= hue_place) & (place < until))

    contrast_place = jnp.argmax(kinds == CONTRAST, axis=1)[:, None]
    before = jittered(contrast_place, jnp.zeros((), x[0].dtype))
    mean = mean_luma(before, whole_levels)
    return jittered(jnp.full_like(contrast_place, 3), jax.lax.optimization_barrier(mean))


def _jitter_in_loops(
    whole_levels: bool,
    x: Planes,
    kinds: jax.Array,
    amounts: jax.Array,
    hue_place: jax.Array,
    shift: jax.Array | None,
) -> Planes:
    place = jnp.arange(3)

    def one_blend(x: Planes, step: tuple[jax.Array, jax.Array]) -> tuple[Planes, None]:
        return blend(x, *step, mean_luma(x, whole_levels), whole_levels), None

    def three_blends(x: Planes, active: jax.Array) -> Planes:
        return jax.lax.scan(one_blend, x, (kinds.T, jnp.where(active, amounts, 1).T))[0]

    if shift is None:
        return three_blends(x, jnp.ones_like(kinds, bool))
    x = turn_hue(three_blends(x, place < hue_place), shift)
    return three_blends(x, place >= hue_place)


def gaussian_blur(x: Planes, sigma: jax.Array, largest: float) -> Planes:
    """Blurs as Pillow's `ImageFilter.GaussianBlur`, one standard deviation per sample.

    Pillow blurs by three box filters of a fractional radius along each axis (Gwosdek et al. 2011,
    "Theoretical foundations of Gaussian convolution by extended box filtering") and repeats the
    edge before each. This is their product, without Pillow's rounding to whole grey levels after
    each.

    Args:
        x: planes, float [N, H, W] each.
        sigma: float [N] in pixels, 0 to `largest`; 0 returns the picture bit for bit.
        largest: the largest sigma that may occur.
    """
    height, width = x[0].shape[1:]
    box = extended_box(sigma.astype(x[0].dtype), largest)
    taps = blur_taps(box, height), blur_taps(box, width)
    return jax.lax.platform_dependent(x, taps, cpu=_blur_by_products, default=_blur_by_sums)


def extended_box(sigma: jax.Array, largest: float) -> jax.Array:
    """Returns the box filter of which three in a row have the standard deviation `sigma`.

    Args:
        sigma: float [N] in pixels, 0 to `largest`.
        largest: sets the number of taps, which is odd.

    Returns:
        Weights [N, taps], symmetric, of sum 1: equal ones, except the two outermost above zero,
        which are a fraction of the others.
    """
    variance = jnp.square(sigma)[:, None] / 3
    radius = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * radius + 1) * (3 * variance - radius * (radius + 1))
    fraction = fraction / (6 * (jnp.square(radius + 1) - variance))
    reach = _radius(largest) + 1
    distance = jnp.abs(jnp.arange(-reach, reach + 1))
    edge = jnp.where(distance == radius + 1, fraction, 0)
    return jnp.where(distance <= radius, 1, edge) / (2 * radius + 1 + 2 * fraction)


def _radius(sigma: float) -> int:
    """Returns the whole part of the radius of the box for `sigma`."""
    return int((math.sqrt(4 * sigma**2 + 1) - 1) / 2)


def blur_taps(box: jax.Array, length: int) -> jax.Array:
    """Returns what three passes of a box filter over a line of pixels do, as one filter.

    Args:
        box: weights [N, 2 r + 1] of a pass; pixels beyond the ends repeat the last pixel.
        length: pixels of the line.

    Returns:
        [N, length, 2 R + 1], R = 3 r: the weights of the pixels i - R .. i + R in the result at i,
        0 for those beyond the ends. All but those of the first and last 2 R pixels are equal.
    """
    reach = 3 * (box.shape[1] // 2)
    # A shorter line has the same ends.
    short = min(length, 4 * reach + 1)
    place = jnp.arange(short)[:, None]
    seen = jnp.clip(place + jnp.arange(box.shape[1]) - box.shape[1] // 2, 0, short - 1)
    taken = jax.nn.one_hot(seen, short, dtype=box.dtype)
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    one_pass = product("nd,idj->nij", box, taken)
    three = product("nij,njk,nkl->nil", one_pass, one_pass, one_pass)
    padded = jnp.pad(three, ((0, 0), (0, 0), (reach, reach)))
    taps = padded[:, place, place + jnp.arange(2 * reach + 1)]
    middle = jnp.repeat(taps[:, short // 2, None], length - short, axis=1)
    return jnp.concatenate([taps[:, : short // 2], middle, taps[:, short // 2 :]], axis=1)


def _blur_by_sums(x: Planes, taps: tuple[jax.Array, jax.Array]) -> Planes:
    # One direction at a time: fused, each pixel would cost the square of the number of taps.
    for axis in (1, 2):
        red, green, blue = map(
            partial(_weighted_sum, taps=taps[axis - 1], axis=axis), jax.lax.optimization_barrier(x)
        )
        x = red, green, blue
    return x


def _weighted_sum(plane: jax.Array, taps: jax.Array, axis: int) -> jax.Array:
    """Sums the neighbours of each pixel along `axis`, weighted by its taps [N, length, 2 R + 1]."""
    radius, length = taps.shape[2] // 2, plane.shape[axis]
    reach = [(0, 0, 0)] * 3
    reach[axis] = (radius, radius, 0)
    # Padding with zeros fuses into the pass, repeating the edge does not.
    padded = jax.lax.pad(plane, jnp.zeros((), plane.dtype), reach)
    terms = (
        jnp.expand_dims(taps[:, :, tap], 3 - axis)
        * jax.lax.slice_in_dim(padded, tap, tap + length, axis=axis)
        for tap in range(2 * radius + 1)
    )
    return reduce(jnp.add, terms)


def _blur_by_products(x: Planes, taps: tuple[jax.Array, jax.Array]) -> Planes:
    """Multiplies by banded matrices; a grouped convolution would take ten times as long."""
    images = jnp.stack(x, axis=-1)
    for weights, product in zip(taps, ("noi,niwc->nowc", "noi,nhic->nhoc"), strict=True):
        length, reach = weights.shape[1], weights.shape[2] // 2
        tap = jnp.arange(length) - jnp.arange(length)[:, None] + reach
        inside = (tap >= 0) & (tap <= 2 * reach)
        places = jnp.broadcast_to(jnp.clip(tap, 0, 2 * reach), (1, length, length))
        band = jnp.where(inside, jnp.take_along_axis(weights, places, axis=2), 0)
        images = jnp.einsum(product, band, images, precision=jax.lax.Precision.HIGHEST)
    return images[..., 0], images[..., 1], images[..., 2]
