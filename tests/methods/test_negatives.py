"""Patch negatives against a loop over patches."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image
from scipy import stats
from skimage import data
from sklearn.datasets import load_sample_image

from nsneg_jax.errors import UsageError
from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.negatives import (
    MODES,
    PatchDraws,
    draw_patches,
    oriented,
    patch_negatives,
    scaled_patch_range,
    validate_patch_size,
)
from nsneg_jax.methods.views import V2, ViewRecipe, normalise

PUBLISHED = (16, 72)
METHODS = ("gather", "matmul")
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
P_VALUE = 1e-3

draw = jax.jit(draw_patches, static_argnums=(1, 2, 3, 4, 5))
paste = jax.jit(patch_negatives, static_argnums=2)


@cache
def photographs(n, side, dtype="float32"):
    """n photographs, normalised like views, [n, side, side, 3]."""
    pictures = (load_sample_image("china.jpg"), load_sample_image("flower.jpg"))
    pictures += (data.astronaut(), data.chelsea())
    resized = [np.asarray(Image.fromarray(p).resize((side, side))) for p in pictures]
    crops = jnp.asarray(np.resize(resized, (n, side, side, 3)), jnp.float32)
    return normalise(crops / 255).astype(dtype)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def canvas(image, size, corners):
    """The reference: one patch after another, then cut. [S, S, C] of the image's dtype."""
    side = len(image)
    cells = side // size + 1
    whole = np.zeros((cells * size, cells * size, image.shape[2]), image.dtype)
    for i in range(cells):
        for j in range(cells):
            y, x = corners[i, j]
            patch = image[y : y + size, x : x + size]
            assert patch.shape[:2] == (size, size)
            whole[i * size : (i + 1) * size, j * size : (j + 1) * size] = patch
    return whole[:side, :side]


def canvases(query, draws):
    query, size, corners = (np.asarray(a) for a in (query, *draws))
    return np.stack(
        [
            [canvas(query[n], size[n, m], corners[n, m]) for m in range(size.shape[1])]
            for n in range(len(query))
        ]
    )


def assert_same_bits(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and got.dtype == want.dtype
    bits = f"u{got.dtype.itemsize}"
    np.testing.assert_array_equal(got.view(bits), want.view(bits))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("side", "n", "num"), [(32, 8, 3), (224, 2, 1)])
def test_canvas_is_the_loop_over_patches(name, side, n, num):
    query = photographs(n, side)
    draws = draw(keys(n), num, side, *scaled_patch_range(PUBLISHED, side))
    got = paste(query, draws, name)
    assert got.shape == (n, num, side, side, 3)
    assert_same_bits(got, canvases(query, draws))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_every_size_and_the_extreme_corners(name, dtype):
    # 20 is no power of two and has divisors and others; sizes 1..19 are all there are
    side, sizes = 20, np.arange(1, 20, dtype=np.int32)
    query = photographs(len(sizes), side, dtype)
    rng = np.random.default_rng(1)
    highest = (side - sizes)[:, None, None, None, None]
    corners = rng.integers(0, highest, (len(sizes), 3, side + 1, side + 1, 2), np.int32)
    corners[:, 1] = 0
    corners[:, 2] = highest[:, 0] - 1
    draws = PatchDraws(jnp.asarray(np.tile(sizes[:, None], 3)), jnp.asarray(corners))
    assert_same_bits(paste(query, draws, name), canvases(query, draws))


def test_both_methods_give_the_same_bits():
    draws = draw(keys(4, seed=3), 1, 64, *scaled_patch_range(PUBLISHED, 64))
    for dtype in ("float32", "bfloat16"):
        query = photographs(4, 64, dtype)
        one, other = (paste(query, draws, name) for name in METHODS)
        assert_same_bits(one, other)
        assert one.dtype == dtype
    assert_same_bits(paste(query, draws), one)


def test_a_canvas_holds_its_own_query_and_nothing_else():
    # a pixel's value tells image, row and column; so every pixel shows where it came from
    n, side = 4, 32
    value = np.arange(n * side * side, dtype=np.float32).reshape(n, side, side, 1)
    draws = draw(keys(n), 2, side, 2, 10)
    for name in METHODS:
        got = np.asarray(paste(jnp.asarray(value), draws, name)).astype(int)
        image, y, x = np.unravel_index(got[..., 0], (n, side, side))
        assert (image == np.arange(n)[:, None, None, None]).all()
        # between the seams neighbours are neighbours, and the seams are every d pixels
        for i, m in np.ndindex(n, 2):
            size = int(draws.size[i, m])
            step = np.diff(y[i, m], axis=0) == 1
            inside = np.arange(1, side) % size != 0
            assert step[inside].all() and not step[~inside].all()
            step = np.diff(x[i, m], axis=1) == 1
            assert step[:, inside].all() and not step[:, ~inside].all()


def test_negatives_come_from_the_augmented_query_view():
    views = ViewMaker(V2, patches=2, texture=False, patch_range=(4, 10), dtype="float32", seed=0)
    crops = np.random.default_rng(0).integers(0, 256, (3, 2, 32, 32, 3), np.uint8)
    make_views = jax.jit(partial(views, jnp.int32(0)))
    made = make_views({"query": crops[:, 0], "key": crops[:, 1]})
    query, negatives = np.asarray(made.query), np.asarray(made.negatives)
    for n, m in np.ndindex(negatives.shape[:2]):
        own = {pixel.tobytes() for pixel in query[n].reshape(-1, 3)}
        assert {pixel.tobytes() for pixel in negatives[n, m].reshape(-1, 3)} <= own
    assert (negatives[:, 0] != negatives[:, 1]).any(axis=(1, 2, 3)).all()
    other = make_views({"query": crops[:, 0], "key": 255 - crops[:, 1]})
    assert (other.key != made.key).any()
    assert_same_bits(other.negatives, negatives)


# Other modes, against the same patches turned and put into their places one after another.

TURNED = {
    "rotated": [(turns, False) for turns in range(4)],
    "flipped": [(0, False), (0, True), (2, False), (2, True)],
    "rotated+flipped": [(turns, mirrored) for turns in range(4) for mirrored in (False, True)],
}


def pieces_of(canvas, size):
    """The cells of a canvas by row and column, those at the right and bottom cut."""
    starts = range(0, len(canvas), size)
    return {(i, j): canvas[i : i + size, j : j + size] for i in starts for j in starts}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mode", TURNED)
def test_turned_patches_are_the_published_ones_in_every_orientation(name, mode):
    n, side, low, high = 12, 32, 3, 10
    value = np.arange(n * side * side, dtype=np.float32).reshape(n, side, side, 1)
    plain = jax.device_get(draw(keys(n), 2, side, low, high))
    draws = draw(keys(n), 2, side, low, high, mode)
    np.testing.assert_array_equal(draws.size, plain.size)
    got = np.asarray(paste(oriented(jnp.asarray(value), mode), draws, name))
    counts = np.zeros(len(TURNED[mode]), int)
    for i, m in np.ndindex(n, 2):
        size = int(plain.size[i, m])
        for (top, left), piece in pieces_of(got[i, m], size).items():
            y, x = plain.corners[i, m, top // size, left // size]
            crop = value[i, y : y + size, x : x + size]
            turned = [
                np.rot90(crop, turns)[:, :: -1 if mirrored else 1]
                for turns, mirrored in TURNED[mode]
            ]
            same = [(t[: len(piece), : piece.shape[1]] == piece).all() for t in turned]
            assert any(same)
            if sum(same) == 1:  # a sliver at the edge may fit two
                counts[same.index(True)] += 1
    assert counts.sum() > 500
    assert stats.chisquare(counts).pvalue > P_VALUE


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("side", [24, 31])
def test_a_jigsaw_uses_every_patch_of_the_grid_once(name, side):
    n = 12
    value = np.arange(n * side * side, dtype=np.float32).reshape(n, side, side, 1)
    draws = jax.device_get(draw(keys(n), 2, side, 4, 9, "jigsaw"))
    np.testing.assert_array_equal(draws.size, draw(keys(n), 2, side, 4, 9).size)
    got = np.asarray(paste(oriented(jnp.asarray(value), "jigsaw"), draws, name))
    moved = 0
    for i, m in np.ndindex(n, 2):
        size = int(draws.size[i, m])
        # the grid's last row and column are shifted inward
        corners = [min(start, side - size) for start in range(0, side, size)]
        grid = {(y, x): value[i, y : y + size, x : x + size] for y in corners for x in corners}
        used = []
        for place, piece in pieces_of(got[i, m], size).items():
            height, width = piece.shape[:2]
            found = [c for c, g in grid.items() if (g[:height, :width] == piece).all()]
            assert len(found) == 1
            used += found
            moved += found[0] != place
        assert sorted(used) == sorted(grid)
        if side % size == 0:
            np.testing.assert_array_equal(np.sort(got[i, m], axis=None), value[i].ravel())
    assert moved > 400


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_the_same_for_both_methods_and_in_the_views(mode):
    plain = ViewRecipe("v2", (0, 0, 0, 0), 0, 0, 0, (0.1, 2.0), 0)
    views = ViewMaker(plain, 1, False, (4, 10), dtype="float32", seed=0, patch_mode=mode)
    crops = np.random.default_rng(0).integers(0, 256, (2, 2, 32, 32, 3), np.uint8)
    made = jax.jit(partial(views, jnp.int32(0)))({"query": crops[0], "key": crops[1]})
    own = views._keys(jnp.int32(0), 3, None, 2)
    draws = draw(own, 1, 32, 4, 10, mode)
    for name in METHODS:
        assert_same_bits(paste(oriented(made.query, mode), draws, name), made.negatives)


@pytest.mark.parametrize("name", METHODS)
def test_sharded_over_eight_devices_gives_the_same_bits(name):
    @jax.jit
    def make(query, keys):
        return patch_negatives(query, draw_patches(keys, 2, 32, 2, 10), name)

    whole = make(photographs(16, 32), keys(16))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = NamedSharding(mesh, PartitionSpec("data"))
    parts = jax.device_put((photographs(16, 32), keys(16)), batch)
    program = make.lower(*parts).compile()
    assert not [collective for collective in COLLECTIVES if collective in program.as_text()]
    got = program(*parts)
    assert len(got.sharding.device_set) == 8
    assert_same_bits(got, whole)


# Ranges and mistakes.


def test_scaled_range():
    assert scaled_patch_range((16, 72), 448) == (32, 144)
    # where rounding would leave 1..image_size - 1 the range shrinks, and stays one that can be used
    assert scaled_patch_range((1, 223), 32) == (1, 31)
    for side in range(2, 300):
        low, high = scaled_patch_range(PUBLISHED, side)
        validate_patch_size(low, high, side)
    assert scaled_patch_range(PUBLISHED, 2) == (1, 1)


def test_tiny_images_have_negatives_too():
    low, high = scaled_patch_range(PUBLISHED, 4)
    query = photographs(2, 4)
    draws = draw(keys(2), 2, 4, low, high)
    assert_same_bits(paste(query, draws, "gather"), canvases(query, draws))


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [
        (0, 72, 224),
        (-16, 72, 224),
        (72, 16, 224),
        (16, 224, 224),
        (16, 72, 72),
        (16.0, 72, 224),
        (16, "72", 224),
        (True, 72, 224),
    ],
)
def test_a_wrong_range_is_refused(low, high, side):
    with pytest.raises(UsageError) as error:
        validate_patch_size(low, high, side)
    message = str(error.value)
    assert f"({low!r}, {high!r}) pixels for images of {side} pixels" in message
    assert (
        f"two integers, the smallest and the largest side, with 1 <= smallest <= largest < {side}"
        in (message)
    )
    assert "Change the range (the published one is (16, 72) at 224 pixels" in message
    if side == 224:
        # scaling must not round a mistake away
        for image_size in (4, 32, 224, 512):
            with pytest.raises(UsageError):
                scaled_patch_range((low, high), image_size)
    with pytest.raises(UsageError):
        draw_patches(keys(1), 1, side, low, high)


def test_images_of_one_pixel_and_unknown_methods_are_refused():
    with pytest.raises(UsageError, match=r"images of 1 pixels.*larger images"):
        scaled_patch_range(PUBLISHED, 1)
    with pytest.raises(UsageError, match=r"'scatter'.*'gather', 'matmul' or None"):
        patch_negatives(photographs(2, 4), draw(keys(2), 2, 4, 1, 1), "scatter")


def test_an_unknown_mode_is_refused():
    for call in (
        lambda: draw_patches(keys(1), 1, 32, 2, 10, "mirrored"),
        lambda: oriented(photographs(1, 4), "mirrored"),
    ):
        with pytest.raises(UsageError, match=r"'mirrored'.*'jigsaw'"):
            call()


def test_range_bounds_may_be_numpy_integers():
    validate_patch_size(np.int64(2), np.int32(10), 32)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_form_is_that_of_the_platform_a_program_is_for(platform):
    def negatives(query, keys):
        return patch_negatives(query, draw_patches(keys, 1, 32, 2, 10))

    keys = jax.random.split(jax.random.key(0), 2)
    traced = jax.jit(negatives).trace(jnp.zeros((2, 32, 32, 3)), keys)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("dot_general" in text) == (platform == "tpu")
