"""The built-in data set: what its pictures promise."""

import hashlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from nsneg_jax.errors import UsageError
from nsneg_jax.input.shapes import fills as shape_textures
from nsneg_jax.input.shapes import source as shapes
from nsneg_jax.input.shapes.source import CLASSES, SPLITS, VERSIONS, PictureCache, Shapes


def pictures(split="train", *, size=60, image_size=32, **rest):
    source = Shapes(split, image_size=image_size, size=size, **rest)
    return np.stack([source.image(i) for i in range(size)])


def luma(images):
    return images.astype(float) @ (0.299, 0.587, 0.114) / 255


def border(image):
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def coverage(rendition):
    """How much of each pixel the silhouette covers, from a rendition's two colours."""
    colours, counts = np.unique(rendition.reshape(-1, 3), axis=0, return_counts=True)
    ground = np.median(border(rendition), axis=0)
    differs = (colours != ground).any(axis=1)
    flat = colours[differs][np.argmax(counts[differs])].astype(float)
    across = flat - ground
    return np.clip((rendition - ground) @ across / (across @ across), 0, 1)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def filled(figure):
    """A single figure without its holes, bool [S, S]."""
    figure = figure.astype(np.uint8)
    contours, _ = cv2.findContours(figure, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    assert len(contours) == 1
    return cv2.drawContours(np.zeros_like(figure), contours, -1, 1, -1).astype(bool)


def edge(mask):
    """The outermost pixels of a mask, bool [S, S]."""
    return mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("image_size", [16, 33, 224, 512])
def test_shape_and_type_at_every_size(version, image_size):
    images = pictures(size=3, image_size=image_size, version=version)
    assert images.shape == (3, image_size, image_size, 3)
    assert images.dtype == np.uint8
    assert (images.reshape(3, -1).std(axis=1) > 5).all()


def test_protocol():
    source = Shapes("val", image_size=32, size=200, version="sketch")
    assert source.name == "shapes/sketch/val"
    assert source.classes == CLASSES and len(set(CLASSES)) == 10
    assert len(source) == 200
    assert source.labels.dtype == np.int32
    assert np.bincount(source.labels).tolist() == [20] * 10
    assert np.array_equal(source.image(np.int64(7)), source.image(7))


def test_name_tells_the_seed():
    assert Shapes("test", image_size=32, size=10, seed=7).name == "shapes/clean@7/test"


def test_pictures_are_those_that_were_recorded():
    # shapes.npz: ten pictures of each version. Whoever trained on them must get the same ones
    # again, but for the last bit of another machine's sine.
    with np.load(Path(__file__).with_name("shapes.npz")) as recorded:
        assert sorted(recorded.files) == sorted(VERSIONS)
        for version in recorded.files:
            images = pictures("val", size=10, image_size=20, seed=3, version=version)
            differences = np.abs(images.astype(int) - recorded[version])
            assert differences.max() <= 1 and (differences > 0).mean() < 0.001


def test_longer_set_begins_with_the_shorter():
    assert np.array_equal(pictures(size=20), pictures(size=40)[:20])


def test_same_pictures_in_threads_in_any_order_and_in_another_process():
    count = 80
    program = f"""
import hashlib
from nsneg_jax.input.shapes.source import (VERSIONS, Shapes)
digest = hashlib.sha256()
for version in VERSIONS:
    source = Shapes(image_size=40, size={count}, seed=77, version=version)
    for i in range({count}):
        digest.update(source.image(i).tobytes())
print(digest.hexdigest())
"""
    alone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr

    jobs = [(version, i) for version in VERSIONS for i in range(count)]
    sources = {v: Shapes(image_size=40, size=count, seed=77, version=v) for v in VERSIONS}
    shuffled = [jobs[k] for k in np.random.default_rng(0).permutation(len(jobs))]
    with ThreadPoolExecutor(8) as pool:
        images = pool.map(lambda job: sources[job[0]].image(job[1]), shuffled)
        made = dict(zip(shuffled, images, strict=True))
    digest = hashlib.sha256(b"".join(made[job].tobytes() for job in jobs))
    assert digest.hexdigest() == alone.stdout.strip()


@pytest.mark.parametrize("version", VERSIONS)
def test_no_two_pictures_are_equal_within_and_between_splits_and_seeds(version):
    streams = [pictures(split, size=150, version=version) for split in SPLITS]
    streams.append(pictures("train", size=150, version=version, seed=1))
    everything = np.concatenate(streams)
    assert len({image.tobytes() for image in everything}) == len(everything)


def test_same_picture_at_every_size():
    small, large = pictures(image_size=32), pictures(image_size=128)
    shrunk = np.stack([cv2.resize(i, (32, 32), interpolation=cv2.INTER_AREA) for i in large])
    difference = np.abs(shrunk.astype(int) - small).mean(axis=(1, 2, 3))
    # the width of a contour is rounded to a quarter of a pixel
    assert np.median(difference) < 2 and difference.max() < 6


def test_versions_share_the_silhouette_and_every_one_shows_it():
    sets = {v: pictures(size=60, image_size=96, version=v) for v in VERSIONS}
    for i in range(60):
        mask = coverage(sets["rendition"][i]) > 0.5

        clean = luma(sets["clean"][i])
        stands_out = np.abs(clean - np.median(border(clean))) > 0.2
        # a contour is as much outside the silhouette as inside, and may be all there is
        assert overlap(filled(stands_out), filled(mask)) > 0.6
        assert stands_out[edge(mask)].mean() > 0.9

        light = luma(sets["stylized"][i]) > 0.5
        assert max(overlap(light, mask), overlap(~light, mask)) > 0.95

        conflict = luma(sets["conflict"][i])
        stands_out = np.abs(conflict - np.median(border(conflict))) > 0.2
        assert overlap(stands_out, mask) > 0.95
        assert (border(sets["conflict"][i]) == sets["conflict"][i][0, 0]).all()

        ink = (sets["sketch"][i][..., 0] < 128).astype(np.uint8)
        assert overlap(filled(ink), mask) > 0.75
        assert filled(ink)[mask].all()
        # The pen follows the edge: the middle of the silhouette stays white.
        deep = cv2.erode(mask.astype(np.uint8), np.ones((9, 9))).astype(bool)
        assert not ink[deep].any()


def test_silhouettes_stay_inside_and_have_equal_areas():
    count = 1000
    source = Shapes(image_size=64, size=count, version="rendition")
    masks = np.stack([coverage(source.image(i)) for i in range(count)])
    assert masks[:, 0].max() == masks[:, -1].max() == 0
    assert masks[:, :, 0].max() == masks[:, :, -1].max() == 0
    area = np.array([masks[source.labels == k].mean() for k in range(10)])
    assert area.min() > 0.25 and area.max() < 0.29 and area.max() < 1.1 * area.min()
    spread = masks.mean(axis=(1, 2)).std()
    assert np.ptp(area) < spread


def test_sketch_is_black_on_white():
    images = pictures(version="sketch", image_size=64)
    assert (images[..., :1] == images).all()
    assert (border(images[0]) == 255).all()
    white = (images[..., 0] > 250).mean(axis=(1, 2))
    black = (images[..., 0] < 5).mean(axis=(1, 2))
    assert white.min() > 0.8 and black.min() > 0.01


def test_rendition_has_two_flat_colours():
    for image in pictures(version="rendition", image_size=96):
        _, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        assert np.sort(counts)[-2:].sum() > 0.93 * 96 * 96


def test_stylized_has_its_own_textures_inside_and_outside():
    seen, unseen = shape_textures.SEEN, shape_textures.UNSEEN
    assert not set(seen) & set(unseen) and not set(seen.values()) & set(unseen.values())
    assert len(unseen) >= 4

    masks = [coverage(i) for i in pictures(version="rendition", image_size=96)]
    contrast = {}
    for version in ("clean", "stylized"):
        images = pictures(version=version, image_size=96).astype(float)
        for where, chosen in (("out", lambda m: m == 0), ("in", lambda m: m == 1)):
            contrast[version, where] = np.array(
                [i[chosen(m)].std(axis=0).max() for i, m in zip(images, masks, strict=True)]
            )
    assert contrast["stylized", "out"].min() > 10
    assert contrast["stylized", "in"].min() > 10
    without_contour = contrast["clean", "out"] < 10
    assert 0.3 < without_contour.mean() < 0.7
    assert 0.6 < (contrast["clean", "out"][without_contour] == 0).mean() < 0.95
    assert contrast["clean", "in"][without_contour].min() > 10


def test_half_of_the_clean_pictures_have_a_contour_and_some_no_more():
    images = luma(pictures(size=600, image_size=64))
    masks = [coverage(i) == 1 for i in pictures(size=600, image_size=64, version="rendition")]
    hollow = 0
    for image, mask in zip(images, masks, strict=True):
        deep = cv2.erode(mask.astype(np.uint8), np.ones((7, 7))).astype(bool)
        hollow += (np.abs(image[deep] - np.median(border(image))) < 0.1).all()
    assert 0.1 < hollow / 600 < 0.2


def test_conflict_pairs_every_shape_with_every_other_as_texture():
    source = Shapes("test", image_size=32, size=180, version="conflict")
    assert source.texture_labels.dtype == np.int32 and source.labels.dtype == np.int32
    pairs = list(zip(source.labels.tolist(), source.texture_labels.tolist(), strict=True))
    assert sorted(pairs) == sorted(2 * [(a, b) for a in range(10) for b in range(10) if a != b])
    for start in range(0, 180, 10):
        assert sorted(source.texture_labels[start : start + 10]) == list(range(10))
    assert Shapes(image_size=32, size=10).texture_labels is None


def drawn(corners, size):
    # OpenCV moves some edges from outside to the canvas's border, which is therefore cut off.
    points = [np.rint(corners * size).astype(np.int32) + 1]
    return cv2.fillPoly(np.zeros((size + 2, size + 2), np.uint8), points, 1)[1:-1, 1:-1]


@pytest.mark.parametrize("label", range(10))
def test_tile_makes_small_copies_side_by_side(label):
    silhouette = shapes._SILHOUETTES[label]
    for seed in range(4):
        copies = shape_textures.tile(np.random.default_rng(seed), silhouette)
        # Similar to the silhouette: all distances between corners by the same factor.
        ratios = np.stack([pdist(copy) / pdist(silhouette) for copy in copies])
        assert np.ptp(ratios) < 1e-9 and 0.1 < ratios.mean() < 0.2
        canvas = sum(drawn(copy, 300) for copy in copies)
        assert canvas.max() == 1 and 0.2 < canvas.mean() < 0.7
        # None is missing, up to the picture's corners: there is no place far from all of them.
        assert cv2.distanceTransform(1 - canvas, cv2.DIST_L2, 5).max() < 0.18 * 300


def test_conflict_shows_silhouettes_of_its_texture_class():
    # Inside the shape are two colours. One of them makes islands, and those that the edge does not
    # cut have the outline of the texture's class: of all classes' its first Hu moment, which no
    # turn or scale changes, is the nearest.
    def moment(mask):
        return cv2.HuMoments(cv2.moments(mask, binaryImage=True))[0, 0]

    wanted = np.array([moment(drawn(s / 4 + 0.5, 600)) for s in shapes._SILHOUETTES])
    source = Shapes("val", image_size=256, size=60, version="conflict")
    nearest = []
    for i in range(60):
        image = source.image(i).astype(int)
        inside = (np.abs(image - image[0, 0]).sum(axis=2) > 60).astype(np.uint8)
        deep = cv2.erode(inside, np.ones((5, 5)))
        colours, counts = np.unique(image[deep == 1] @ (1 << 16, 1 << 8, 1), return_counts=True)
        first, second = (
            np.array((*divmod(c >> 8, 256), c & 255)) for c in colours[np.argsort(counts)[-2:]]
        )
        across = second - first
        share = ((image - first) @ across) / (across @ across)
        for side in (share > 0.5, share < 0.5):
            _, marks, boxes, _ = cv2.connectedComponentsWithStats(side.astype(np.uint8) & deep)
            for k, (x, y, w, h, area) in enumerate(boxes[1:], 1):
                box = slice(y - 2, y + h + 2), slice(x - 2, x + w + 2)
                island = (marks[box] == k).astype(np.uint8)
                cut = (cv2.dilate(island, np.ones((3, 3))) > deep[box]).any()
                if area > 500 and not cut:
                    distances = np.abs(np.log(moment(island) / wanted))
                    nearest.append(distances[source.texture_labels[i]] < distances.min() + 0.05)
    assert len(nearest) > 60
    assert np.mean(nearest) > 0.9


@pytest.mark.parametrize("family", [*shape_textures.SEEN, *shape_textures.UNSEEN])
def test_textures_are_float32_maps_with_both_colours(family):
    paint = {**shape_textures.SEEN, **shape_textures.UNSEEN}[family]
    for seed in range(5):
        texture = paint(np.random.default_rng(seed), 64)
        assert texture.shape == (64, 64) and texture.dtype == np.float32
        assert texture.min() >= 0 and texture.max() <= 1
        assert np.ptp(texture) > 0.8 and 0.15 < texture.mean() < 0.85


def test_colours_carry_no_label():
    def statistics(images):
        bins = (images >> 4).astype(int) + 16 * np.arange(3)
        histograms = np.stack([np.bincount(b.ravel(), minlength=48) for b in bins]) / 1024
        pixels = images.reshape(len(images), -1, 3) / 255
        return np.concatenate(
            [histograms, pixels.mean(axis=1), pixels.std(axis=1), np.ones((len(images), 1))], axis=1
        )

    x, held_out = (statistics(pictures(split, size=3000)) for split in ("train", "val"))
    labels = np.arange(3000) % 10
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ np.eye(10)[labels])
    accuracy = ((held_out @ weights).argmax(axis=1) == labels).mean()
    assert accuracy < 0.13  # chance, 0.1, and over five standard deviations


def test_pixels_tell_the_label_but_not_at_once():
    x, held_out = (
        pictures(split, size=size).reshape(size, -1).astype(np.float32)
        for split, size in (("train", 3000), ("val", 500))
    )
    distances = (x * x).sum(axis=1) - 2 * held_out @ x.T
    accuracy = (distances.argmin(axis=1) % 10 == np.arange(500) % 10).mean()
    assert 0.15 < accuracy < 0.7


def test_pictures_are_the_callers_to_change():
    source = Shapes(image_size=32, size=10)
    first = source.image(3)
    kept = first.copy()
    first[:] = 0
    second = source.image(3)
    assert np.array_equal(second, kept)
    second[:] = 0
    assert np.array_equal(source.image(3), kept)


def test_cache_is_bounded_and_renders_what_it_does_not_hold():
    cache = PictureCache(limit=3 * 48)
    rendered = []

    def get(key):
        def render():
            rendered.append(key)
            return np.full((4, 4, 3), key[0], np.uint8)

        return cache.get(key, render)

    for _ in range(2):
        for k in range(5):
            assert (get((k,)) == k).all()
    assert cache.bytes == 3 * 48
    assert rendered == [(0,), (1,), (2,), (3,), (4,), (3,), (4,)]


def test_cache_counts_each_picture_once_under_threads():
    cache = PictureCache(limit=10**6)
    keys = [(k % 50,) for k in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda k: cache.get(k, lambda: np.full((4, 4, 3), k[0], np.uint8)), keys)
        assert all((image == k[0]).all() for image, k in zip(made, keys, strict=True))
    assert cache.bytes == 50 * 48


def test_travels_to_worker_processes_without_its_pictures():
    source = Shapes(image_size=64, size=100)
    images = [source.image(i) for i in range(100)]
    data = pickle.dumps(source)
    assert len(data) < 5_000
    assert np.array_equal(pickle.loads(data).image(42), images[42])


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ({"split": "training"}, ("'training'", "train, val, test")),
        (
            {"version": "corruption"},
            ("'corruption'", "clean, sketch, stylized, rendition, conflict"),
        ),
        ({"image_size": 15}, ("15", "16 to 512")),
        ({"image_size": 513}, ("513", "16 to 512")),
        ({"size": 0}, ("is 0,", "multiple of 10")),
        ({"seed": -1}, ("-1", "2**64 - 1")),
    ],
)
def test_mistakes_say_how_to_mend_them(mistake, words):
    with pytest.raises(UsageError) as error:
        Shapes(**{"image_size": 32, "size": 10, **mistake})
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("index", [-1, 10])
def test_index_out_of_range(index):
    with pytest.raises(IndexError):
        Shapes(image_size=32, size=10).image(index)
