"""Non-semantic negatives made of patches (Ge et al. 2021, section 3).

A patch negative keeps a picture's local statistics and destroys its content: it tiles a canvas
with independent random crops of one size from the augmented, normalised query view. As in the
authors' code, a patch may be used twice and the last possible corner, S - d, is never drawn.

Modes other than the published 'crops' change where the patches come from:

* 'jigsaw': the patches of a fixed grid, each used once, in random order. The grid begins at the
  top left; where d does not divide S, its last row and column are shifted inward to fit.
* 'rotated': crops, each turned by 0, 90, 180 or 270 degrees, with equal chances.
* 'flipped': crops, each mirrored left and right with chance 1/2, and up and down with chance 1/2.
* 'rotated+flipped': both, so each of the eight orientations has the same chance; the authors' code
  holds this in a comment.

Sizes and crops are those of mode 'crops' with the same keys, except in 'jigsaw'.
"""

from dataclasses import dataclass
from numbers import Integral
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.errors import UsageError

Method = Literal["gather", "matmul"]
Mode = Literal["crops", "jigsaw", "rotated", "flipped", "rotated+flipped"]
MODES: tuple[str, ...] = get_args(Mode)

# Orientations of a patch by mode: quarter turns to the left, then whether to mirror left and right.
# A half turn and a mirror make up and down.
_ORIENTATIONS = {
    "crops": ((0, False),),
    "jigsaw": ((0, False),),
    "rotated": ((0, False), (1, False), (2, False), (3, False)),
    "flipped": ((0, False), (0, True), (2, False), (2, True)),
    "rotated+flipped": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}


class PatchDraws(NamedTuple):
    """All random decisions about the M patch negatives of N images.

    Attributes:
        size: int32 [N, M]. Side d of the patches in pixels.
        corners: int32 [N, M, n_max, n_max, 2]. (y, x) of the top-left pixel, in `oriented`, of the
            crop that fills row i, column j of the canvas. A negative uses the first ceil(S / d)
            rows and columns.
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


def validate_alignment(lo: int, hi: int, align: int) -> None:
    """Checks that a range of patch sides has a multiple of `align`; 0 is always fine.

    Raises:
        UsageError: it has none.
    """
    if align and hi // align < -(-lo // align):
        raise UsageError(
            f"The patch sizes {lo} to {hi} have no multiple of {align} pixels, to which patches "
            "are to be aligned. Widen the range, or align to fewer pixels."
        )


def draw_patches(
    keys: jax.Array,
    num: int,
    image_size: int,
    lo: int,
    hi: int,
    mode: Mode = "crops",
    align: int = 0,
) -> PatchDraws:
    """Draws the patches of `num` negatives for each image.

    A side d is uniform over lo..hi; each coordinate of a crop's corner is uniform over 0..S-d-1.
    With `align` both are uniform over its multiples, up to S-d, so that a patch is made of whole
    tokens of a ViT.

    Args:
        keys: typed keys [N]. Negative m of an image depends only on the image's key and m.
        num: M, negatives per image.
        image_size: side S of the square view.
        lo: smallest patch side in pixels, included.
        hi: largest patch side in pixels, included.
        mode: one of `MODES`.
        align: pixels of which sides and corners are multiples; 0 for any.

    Raises:
        UsageError: the range is invalid, see `validate_patch_size`, or has no multiple of `align`;
            or there is no such mode.
    """
    validate_patch_size(lo, hi, image_size)
    validate_alignment(lo, hi, align)
    unit = align or 1
    least, most = -(-lo // unit), hi // unit
    orientations = len(_orientations(mode))
    cells = image_size // (unit * least) + 1

    def one(key: jax.Array, negative: jax.Array) -> PatchDraws:
        # Remainders of 32-bit numbers favour small values by less than one in ten million. They
        # need one call; `randint` needs six, which take XLA four times as long to compile.
        own = jax.random.fold_in(key, negative)
        bits = jax.random.bits(own, (1 + 2 * cells**2,), jnp.uint32)
        size = unit * (least + bits[0] % jnp.uint32(most - least + 1)).astype(jnp.int32)
        if mode == "jigsaw":
            return PatchDraws(size, _pieces(bits[1 : 1 + cells**2], size, image_size))
        places = (image_size - size) // align + 1 if align else image_size - size
        corners = bits[1:].reshape(cells, cells, 2) % places.astype(jnp.uint32)
        corners = unit * corners.astype(jnp.int32)
        if orientations > 1:
            bits = jax.random.bits(jax.random.fold_in(own, 0), (cells, cells), jnp.uint32)
            which = (bits % jnp.uint32(orientations)).astype(jnp.int32)
            corners = _in_oriented(corners, which, size, image_size, mode)
        return PatchDraws(size, corners)

    per_image = jax.vmap(one, in_axes=(None, 0))
    numbers = jnp.arange(num, dtype=jnp.uint32)
    return jax.vmap(per_image, in_axes=(0, None))(keys, numbers)


def _pieces(bits: jax.Array, size: jax.Array, image_size: int) -> jax.Array:
    """Returns the corners of a grid's patches in the order of random bits, uint32 [cells^2].

    int32 [cells, cells, 2]; those of the first n x n cells, n = ceil(S / d), are a permutation of
    the grid's.
    """
    cells = int(len(bits) ** 0.5)
    n = -(-image_size // size)
    row, column = jnp.divmod(jnp.arange(cells**2, dtype=jnp.int32), cells)
    inside = (row < n) & (column < n)
    # Pieces outside the grid sort last.
    order = jnp.argsort(jnp.where(inside, bits >> 1, jnp.uint32(2**32 - 1)))
    piece = order[jnp.where(inside, row * n + column, 0)].astype(jnp.int32)
    corners = jnp.stack(jnp.divmod(piece, cells), axis=-1) * size
    return jnp.minimum(corners, image_size - size).reshape(cells, cells, 2)


def _orientations(mode: str) -> tuple[tuple[int, bool], ...]:
    if mode not in _ORIENTATIONS:
        raise UsageError(
            f"The mode of patches is {mode!r}, but must be one of {', '.join(map(repr, MODES))}. "
            "'crops' is the published one."
        )
    return _ORIENTATIONS[mode]


def oriented(query: jax.Array, mode: Mode) -> jax.Array:
    """Returns what the patches of a mode are cropped from: the query in all its orientations.

    Args:
        query: [N, S, S, C] of any dtype.
        mode: one of `MODES`.

    Returns:
        [N, O S, S, C]: O orientations, one below another; the query itself in 'crops' and
        'jigsaw', 4 in 'rotated' and 'flipped', 8 in 'rotated+flipped'.

    Raises:
        UsageError: there is no such mode.
    """
    orientations = _orientations(mode)
    if len(orientations) == 1:
        return query
    turned = [jnp.rot90(query, turns, axes=(1, 2)) for turns in range(4)]
    return jnp.concatenate(
        [turned[turns][:, :, :: -1 if mirrored else 1] for turns, mirrored in orientations], axis=1
    )


def _in_oriented(
    corners: jax.Array, which: jax.Array, size: jax.Array, image_size: int, mode: Mode
) -> jax.Array:
    """Returns the places in `oriented` of crops of the query.

    Args:
        corners: int32 [..., 2], (y, x) of the crops in the query.
        which: int32 [...], their orientations.
        size: int32 [], side of the crops.
        image_size: S.
        mode: one of `MODES`.
    """
    turns, mirrored = (np.array(column) for column in zip(*_orientations(mode), strict=True))
    y, x = corners[..., 0], corners[..., 1]
    last = image_size - size
    quarter = jnp.asarray(turns, jnp.int32)[which]
    row = jnp.select([quarter == turn for turn in range(4)], [y, last - x, last - y, x])
    column = jnp.select([quarter == turn for turn in range(4)], [x, y, last - x, last - y])
    column = jnp.where(jnp.asarray(mirrored)[which], last - column, column)
    return jnp.stack([which * image_size + row, column], axis=-1)


def patch_negatives(query: jax.Array, draws: PatchDraws, method: Method | None = None) -> jax.Array:
    """Tiles each canvas with crops of its own query view.

    Args:
        query: [N, O S, S, C] of any floating dtype, finite: O query views one below another, from
            `oriented` with the mode of the draws; in 'crops' and 'jigsaw' the query view itself.
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
    _, _, side, channels = query.shape

    def one(image: jax.Array, size: jax.Array, corners: jax.Array) -> jax.Array:
        cells = corners.shape[0]
        at = jnp.arange(side, dtype=jnp.int32)
        cell = at // size
        start = jnp.arange(cells, dtype=jnp.int32) * size
        # Offsets into the flat image: one table look-up per pixel, not two.
        moves = (corners[..., 0] - start[:, None]) * side + corners[..., 1] - start
        move = moves.reshape(-1)[cell[:, None] * cells + cell]
        source = at[:, None] * side + at + move
        return image.reshape(-1, channels).at[source].get(mode="clip")

    per_image = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(per_image)(query, draws.size, draws.corners)


def _matmul(query: jax.Array, draws: PatchDraws) -> jax.Array:
    _, height, side, channels = query.shape
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
            jax.nn.one_hot(rows, height, dtype=query.dtype),
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


@dataclass(frozen=True)
class Patches:
    """One patch negative of Ge et al. 2021; see this file's head.

    Attributes:
        patch_range: smallest and largest side of a patch, in pixels of the view.
        mode: where patches come from, one of `MODES`.
        align: see `draw_patches`.
    """

    patch_range: tuple[int, int]
    mode: Mode = "crops"
    align: int = 0
    name: str = "patch"
    reads: Literal["query"] = "query"

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Tiles a canvas with patches of each image [N, S, S, C]; see `Negative`."""
        draws = draw_patches(keys, 1, images.shape[1], *self.patch_range, self.mode, self.align)
        return patch_negatives(oriented(images, self.mode), draws)[:, 0]
