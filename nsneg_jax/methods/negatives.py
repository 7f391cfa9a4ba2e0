"""Non-semantic negatives made of patches (Ge et al. 2021, section 3).

A patch negative keeps a picture's local statistics and destroys its content: it tiles a canvas
with independent random crops of one size from the augmented, normalised query view. As in the
authors' code, a patch may be used twice (this is no jigsaw permutation), patches are neither
flipped nor rotated, and the last possible corner, S - d, is never drawn.
"""

from numbers import Integral
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from nsneg_jax.errors import UsageError

Method = Literal["gather", "matmul"]


class PatchDraws(NamedTuple):
    """All random decisions about the M patch negatives of N images.

    Attributes:
        size: int32 [N, M]. Side d of the patches in pixels.
        corners: int32 [N, M, n_max, n_max, 2]. (y, x) of the top-left pixel of the crop that fills
            row i, column j of the canvas. A negative uses the first S // d + 1 rows and columns.
    """

    size: jax.Array
    corners: jax.Array


def scaled_patch_range(patch_size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Scales a range of patch sides from 224 pixels to `image_size`.

    The published range, (16, 72), is (2, 10) at 32 pixels. Sides are rounded and clipped to
    1..image_size - 1, so on tiny images the range may shrink to one side.

    Args:
        patch_size: smallest and largest side, for images of 224 pixels.
        image_size: side of the square images in pixels, at least 2.

    Returns:
        Smallest and largest side at `image_size`; they pass `validate_patch_size`.

    Raises:
        UsageError: `patch_size` is no valid range at 224 pixels, or `image_size` is less than 2.
    """
    validate_patch_size(*patch_size, 224)
    low, high = (min(max(1, round(s * image_size / 224)), image_size - 1) for s in patch_size)
    validate_patch_size(low, high, image_size)
    return low, high


def validate_patch_size(lo: int, hi: int, image_size: int) -> None:
    """Checks a range of patch sides in pixels of the images.

    Raises:
        UsageError: lo and hi are not integers with 1 <= lo <= hi < image_size.
    """
    whole = all(isinstance(v, Integral) and not isinstance(v, bool) for v in (lo, hi))
    if not whole or not 1 <= lo <= hi < image_size:
        raise UsageError(
            f"The patch size range is ({lo!r}, {hi!r}) pixels for images of {image_size} pixels, "
            "but must be two integers, the smallest and the largest side, with "
            f"1 <= smallest <= largest < {image_size}. Change the range (the published one is "
            "(16, 72) at 224 pixels, and scales with the image) or use larger images."
        )


def draw_patches(keys: jax.Array, num: int, image_size: int, lo: int, hi: int) -> PatchDraws:
    """Draws the patches of `num` negatives for each image.

    A side d is uniform over lo..hi; each coordinate of a corner is uniform over 0..S-d-1.

    Args:
        keys: typed keys [N]. Negative m of an image depends only on the image's key and m.
        num: M, negatives per image.
        image_size: side S of the square view.
        lo: smallest patch side in pixels, included.
        hi: largest patch side in pixels, included.

    Raises:
        UsageError: the range is invalid, see `validate_patch_size`.
    """
    validate_patch_size(lo, hi, image_size)
    cells = image_size // lo + 1

    def one(key: jax.Array, negative: jax.Array) -> PatchDraws:
        # Remainders of 32-bit numbers favour small values by less than one in ten million. They
        # need one call; `randint` needs six, which take XLA four times as long to compile.
        bits = jax.random.bits(jax.random.fold_in(key, negative), (1 + 2 * cells**2,), jnp.uint32)
        size = lo + bits[0] % jnp.uint32(hi - lo + 1)
        corners = bits[1:].reshape(cells, cells, 2) % (image_size - size)
        return PatchDraws(size.astype(jnp.int32), corners.astype(jnp.int32))

    per_image = jax.vmap(one, in_axes=(None, 0))
    numbers = jnp.arange(num, dtype=jnp.uint32)
    return jax.vmap(per_image, in_axes=(0, None))(keys, numbers)


def patch_negatives(query: jax.Array, draws: PatchDraws, method: Method | None = None) -> jax.Array:
    """Tiles each canvas with crops of its own query view.

    Args:
        query: [N, S, S, C] of any floating dtype, finite.
        draws: from `draw_patches` with the same S.
        method: 'gather' (index arithmetic), 'matmul' (one-hot products, for TPUs, where gathers
            are slow) or None, which takes 'matmul' on TPU only. Both copy values and give the
            same bits (except that 'matmul' returns 0.0 for -0.0).

    Returns:
        [N, M, S, S, C] in the query's dtype; the canvas is cut to its top-left S x S pixels.

    Raises:
        UsageError: `method` is none of these.
    """
    if method is None:
        # Chosen by the platform the program runs on, which need not be the one that compiles it.
        return jax.lax.platform_dependent(query, draws, tpu=_matmul, default=_gather)
    if method not in _METHODS:
        raise UsageError(
            f"The method for patch negatives is {method!r}, but must be 'gather', 'matmul' or "
            "None. Leave it at None to choose by platform."
        )
    return _METHODS[method](query, draws)


def _gather(query: jax.Array, draws: PatchDraws) -> jax.Array:
    _, side, _, channels = query.shape

    def one(image: jax.Array, size: jax.Array, corners: jax.Array) -> jax.Array:
        cells = corners.shape[0]
        at = jnp.arange(side, dtype=jnp.int32)
        cell = at // size
        start = jnp.arange(cells, dtype=jnp.int32) * size
        # Offsets into the flat image: one table look-up per pixel, not two.
        moves = (corners[..., 0] - start[:, None]) * side + corners[..., 1] - start
        move = moves.reshape(-1)[cell[:, None] * cells + cell]
        source = at[:, None] * side + at + move
        return image.reshape(side * side, channels).at[source].get(mode="clip")

    per_image = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(per_image)(query, draws.size, draws.corners)


def _matmul(query: jax.Array, draws: PatchDraws) -> jax.Array:
    _, side, _, channels = query.shape
    cells = draws.corners.shape[2]
    at = jnp.arange(side, dtype=jnp.int32)
    size = draws.size[..., None]
    cell = at // size
    within = at - cell * size
    image = jnp.moveaxis(query, 3, 2)

    # Within one column of cells, every canvas row has one source row and one horizontal shift. A
    # product with a one-hot matrix picks the rows and log2(S) conditional rolls shift them; a
    # one-hot product for the columns would need an S x S matrix per row. Scanning over cell
    # columns keeps about three canvases in memory.
    def paste(canvas: jax.Array, column: jax.Array) -> tuple[jax.Array, None]:
        corners = jnp.take(draws.corners, column, axis=3)
        corners = jnp.take_along_axis(corners, cell[..., None], axis=2)
        rows = corners[..., 0] + within
        picked = jnp.einsum(
            "nmyr,nrcx->nmycx",
            jax.nn.one_hot(rows, side, dtype=query.dtype),
            image,
            precision=jax.lax.Precision.HIGHEST,
        )
        shift = ((corners[..., 1] - column * size) % side)[..., None, None]
        for bit in range(max(1, (side - 1).bit_length())):
            picked = jnp.where((shift >> bit) & 1, jnp.roll(picked, -(1 << bit), -1), picked)
        inside = (cell == column)[:, :, None, None, :]
        return jnp.where(inside, picked, canvas), None

    shape = (*draws.size.shape, side, channels, side)
    columns = jnp.arange(cells, dtype=jnp.int32)
    canvas, _ = jax.lax.scan(paste, jnp.zeros(shape, query.dtype), columns)
    return jnp.moveaxis(canvas, 3, 4)


_METHODS = {"gather": _gather, "matmul": _matmul}
