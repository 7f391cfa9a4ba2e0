"""Textures belong to their images, are cut as their queries are, and are made once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loading_settings import grouped
from photo_folder import write_photos
from PIL import Image
from scipy import stats
from tiny import tiny_config

from configs import texture
from data import arrayrecord
from nsneg_jax.errors import UsageError
from nsneg_jax.input.crops import resized_crop, sample_crop, sample_texture_crop
from nsneg_jax.input.pipeline import pretrain_batches
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.source import open_files
from nsneg_jax.input.texture_pairs import (
    MadeTextures,
    make_textures,
    pair_folders,
    small_recipe,
)
from nsneg_jax.jobs.build import build, open_textures
from nsneg_jax.methods import shuffling
from nsneg_jax.textures.recipe import TextureRecipe, validate

SIZE = 16


def write_tree(root, names, ending, seed):
    rng = np.random.default_rng(seed)
    for name in names:
        path = root / "train" / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*rng.integers(20, 60, 2), 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)


NAMES = ["ant/1", "ant/2", "ant/deep/3", "bee/1", "bee/2", "bee/x.y", "cat/1", "cat/2"]


@pytest.fixture
def images(tmp_path):
    write_tree(tmp_path / "images", NAMES, "png", 0)
    return Folder(str(tmp_path / "images"), "train")


def batches(source, textures, **changes):
    settings = {
        "batch_size": 4,
        "image_size": SIZE,
        "crop_scale": (0.2, 1.0),
        "seed": 1,
        "start_step": 0,
        "total_steps": 4,
        "threads": 2,
        "workers": 0,
    }
    steps, loaders, rest = grouped({**settings, **changes})
    return list(pretrain_batches(source, steps, loaders, textures=textures, **rest))


def test_pairs_are_found_by_name_whatever_the_ending(images, tmp_path):
    write_tree(tmp_path / "textures", reversed(NAMES), "webp", 1)
    write_tree(tmp_path / "textures", ["bee/of no image"], "webp", 2)
    source, textures = pair_folders(images, Folder(str(tmp_path / "textures"), "train"))
    assert source is images and len(textures) == len(NAMES)
    for i in range(len(images)):
        stem = images.path(i).rsplit(".", 1)[0]
        own = np.asarray(Image.open(tmp_path / "textures" / "train" / f"{stem}.webp"))
        np.testing.assert_array_equal(textures.image(i), own)
    assert textures.labels.tolist() == images.labels.tolist()


def test_missing_textures_are_counted_or_left_out(images, tmp_path):
    there = [name for name in NAMES if name not in ("ant/2", "cat/1")]
    write_tree(tmp_path / "textures", there, "png", 1)
    folder = Folder(str(tmp_path / "textures"), "train")
    with pytest.raises(UsageError, match=r"2 of 8 images .* the first is ant/2\.png"):
        pair_folders(images, folder)
    source, textures = pair_folders(images, folder, missing="skip")
    assert len(source) == len(textures) == 6
    assert source.labels.tolist() == textures.labels.tolist() == [0, 0, 1, 1, 1, 2]
    kept = [i for i in range(8) if images.path(i)[:5] not in ("ant/2", "cat/1")]
    for i, own in enumerate(kept):
        np.testing.assert_array_equal(source.image(i), images.image(own))


def test_a_class_without_any_texture(images, tmp_path):
    """What an interrupted `data.texture` leaves."""
    write_tree(tmp_path / "textures", [name for name in NAMES if "cat" not in name], "png", 1)
    config = texture.get_config()
    config.negatives.texture_source = f"folder:{tmp_path / 'textures'}"
    with pytest.raises(UsageError, match=r"2 of 8 images .* the first is cat/1\.png"):
        open_textures(config, images, tmp_path)
    config.negatives.missing = "skip"
    source, textures = open_textures(config, images, tmp_path)
    assert source.labels.tolist() == textures.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("scheme", ["folder", "arrayrecord"])
def test_images_without_classes_have_textures(tmp_path, scheme):
    names = ["b.jpg", "x/b.jpg", "a.png"]
    write_photos(tmp_path / "images", names, "")
    textures = [f"{name.partition('.')[0]}.png" for name in names]
    write_photos(tmp_path / "textures", textures, "train")
    if scheme == "arrayrecord":
        folders = ["--source", str(tmp_path / "textures/train"), "--out", str(tmp_path / "packed")]
        assert arrayrecord.main([*folders, "--splits", "train"]) == 0
    images = Folder(str(tmp_path / "images"), "train")
    where = tmp_path / ("textures" if scheme == "folder" else "packed")
    theirs = open_files(f"{scheme}:{where}", "train", images.classes, partial=True)
    ours, paired = pair_folders(images, theirs)
    assert [ours.path(i) for i in range(3)] == ["a.png", "b.jpg", "x/b.jpg"]
    assert [paired.path(i) for i in range(3)] == ["a.png", "b.png", "x/b.png"]


def test_no_or_ambiguous_textures_are_errors(images, tmp_path):
    write_tree(tmp_path / "others", ["ant/9", "bee/9", "cat/9"], "png", 1)
    with pytest.raises(UsageError, match="8 of 8 images"):
        pair_folders(images, Folder(str(tmp_path / "others"), "train"), missing="skip")
    write_tree(tmp_path / "twice", NAMES, "png", 1)
    write_tree(tmp_path / "twice", ["bee/2"], "jpg", 1)
    with pytest.raises(UsageError, match="2 textures named bee/2"):
        pair_folders(images, Folder(str(tmp_path / "twice"), "train"))


def test_the_config_names_the_folder(images, tmp_path):
    write_tree(tmp_path / "textures", NAMES, "png", 1)
    config = texture.get_config()
    config.negatives.texture_source = f"folder:{tmp_path / 'textures'}"
    source, textures = open_textures(config, images, tmp_path)
    assert source is images and len(textures) == len(NAMES)


def test_the_texture_view_is_the_query_view_of_a_copy(images):
    """With the originals as textures: the same crop, and the same draws of the view."""
    *_, batch = batches(images, images)
    np.testing.assert_array_equal(batch["texture"], batch["query"])
    assert (batch["texture"] != batch["key"]).any()
    for kind, groups in (("texture", 1), ("texture", 2), ("patch+texture", 2)):
        overrides = {"negatives.kind": kind, "model.bn_groups": groups, "batch_size": 4}
        method, _ = build(tiny_config(texture, **overrides), 5)
        crops = {name: jnp.asarray(batch[name]) for name in ("query", "key", "texture")}
        order = None
        if groups > 1:
            order = method.views.draw_orders(jnp.int32(3), 4)
            crops = shuffling.arrange(crops, order, texture=True)
        views = jax.jit(method.views)(jnp.int32(3), crops, order)
        last = views.negatives.shape[1] - 1
        assert last == ("patch" in kind)
        query = views.query if order is None else views.query[order[1 + last]]
        np.testing.assert_array_equal(views.negatives[:, last], query)


def test_textures_of_another_size_get_the_query_s_draws(images, tmp_path):
    write_tree(tmp_path / "textures", NAMES, "png", 1)
    source, textures = pair_folders(images, Folder(str(tmp_path / "textures"), "train"))
    with_textures, without = batches(source, textures), batches(source, None)
    for step, (batch, plain) in enumerate(zip(with_textures, without, strict=True)):
        for name in ("query", "key", "index"):
            np.testing.assert_array_equal(batch[name], plain[name])
        for at, index in enumerate(batch["index"]):
            texture = textures.image(index)
            box = sample_texture_crop(generator(4 * step + at), *texture.shape[:2])
            np.testing.assert_array_equal(batch["texture"][at], resized_crop(texture, box, SIZE))


def generator(place):
    return np.random.Generator(np.random.Philox(key=np.array([1, place], np.uint64)))


def both_crops(size, side, scale):
    """Boxes of images of `size` and of their textures, float [2, 4, 1000]."""
    boxes = [
        (sample_crop(generator(i), *size, scale), sample_texture_crop(generator(i), *side, scale))
        for i in range(1000)
    ]
    return np.array(boxes, float).transpose(1, 2, 0)


def relations(image, texture, size, side):
    """How far a texture's crop is from its image's: shape, area, centre down and across."""
    (top, left, h, w), (top_t, left_t, h_t, w_t) = image, texture
    return (
        np.log(w_t / h_t) - np.log(w / h),
        h_t * w_t / (side[0] * side[1]) - h * w / (size[0] * size[1]),
        (top_t + h_t / 2) / side[0] - (top + h / 2) / size[0],
        (left_t + w_t / 2) / side[1] - (left + w / 2) / size[1],
    )


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (500, 500)])
def test_a_texture_s_crop_keeps_area_and_pixel_shape_but_not_the_place(size):
    # With areas up to a half, every first draw fits into both.
    image, texture = both_crops(size, (224, 224), (0.2, 0.5))
    shape, area, *_ = relations(image, texture, size, (224, 224))
    assert np.abs(shape).max() < 0.02 and np.abs(area).max() < 0.01  # rounding to whole pixels
    for axis in (0, 1):
        places = [side - boxes[2 + axis] for side, boxes in ((size[axis], image), (224, texture))]
        ours, theirs = image[axis] / places[0], texture[axis] / places[1]
        assert stats.kstest(theirs, stats.uniform().cdf).pvalue > 1e-3
        assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.12


def torchvision_crop(seed, height, width):
    """RandomResizedCrop(scale=(0.2, 1)) under a seed of torch, from its documentation."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    for _ in range(10):
        target = height * width * torch.empty(1).uniform_(0.2, 1.0).item()
        bound = math.log(4 / 3)
        shape = math.exp(torch.empty(1).uniform_(-bound, bound).item())
        w, h = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if 0 < w <= width and 0 < h <= height:
            top = torch.randint(0, height - h + 1, (1,)).item()
            return top, torch.randint(0, width - w + 1, (1,)).item(), h, w
    raise AssertionError("no draw fits")


@pytest.mark.parametrize("size", [(375, 500), (500, 333)])
def test_a_texture_s_crop_relates_to_the_query_s_as_in_the_original(size):
    side = (224, 224)
    original = [[torchvision_crop(seed, *s) for seed in range(1000)] for s in (size, side)]
    original = np.array(original, float).transpose(0, 2, 1)
    pairs = zip(
        relations(*both_crops(size, side, (0.2, 1.0)), size, side),
        relations(*original, size, side),
        strict=True,
    )
    for ours, theirs in pairs:
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_workers_and_processes_load_the_same_textures(images):
    whole = batches(images, images)
    halves = [batches(images, images, process_index=p, process_count=2) for p in range(2)]
    for step, batch in enumerate(whole):
        joined = np.concatenate([half[step]["texture"] for half in halves])
        np.testing.assert_array_equal(joined, batch["texture"])


def test_textures_are_made_once_and_kept(tmp_path, monkeypatch):
    shapes = Shapes("train", image_size=SIZE, size=11)
    made = MadeTextures(shapes, SIZE, tmp_path / "textures.npy")
    first = np.stack([made.image(i) for i in range(11)])
    # colours of the image, in another order, and not the same for all
    for i in range(11):
        own = {pixel.tobytes() for pixel in shapes.image(i).reshape(-1, 3)}
        assert {pixel.tobytes() for pixel in first[i].reshape(-1, 3)} <= own
        assert (first[i] != shapes.image(i)).any()
    monkeypatch.setattr("nsneg_jax.input.texture_pairs.make_textures", None)
    again = MadeTextures(shapes, SIZE, tmp_path / "textures.npy")
    np.testing.assert_array_equal(np.stack([again.image(i) for i in range(11)]), first)
    with pytest.raises(UsageError, match="Remove the file"):
        MadeTextures(Shapes("train", image_size=SIZE, size=12), SIZE, tmp_path / "textures.npy")


def test_kept_textures_belong_to_their_images_and_seed(tmp_path):
    images, others = (Shapes("train", image_size=16, size=2, seed=seed) for seed in (0, 1))
    path = tmp_path / "textures.npy"
    MadeTextures(images, 16, path, seed=3)
    MadeTextures(images, 16, path, seed=3)
    with pytest.raises(UsageError, match="from other images"):
        MadeTextures(others, 16, path, seed=3)
    with pytest.raises(UsageError, match="with the seed 3"):
        MadeTextures(images, 16, path, seed=4)
    made, other = np.load(path), np.zeros((2, 16, 16, 3), np.uint8)
    np.save(path, other)  # of the right shape
    with pytest.raises(UsageError, match="has changed since"):
        MadeTextures(images, 16, path, seed=3)
    path.unlink()
    again = MadeTextures(images, 16, path, seed=3)
    np.testing.assert_array_equal([again.image(i) for i in range(2)], made)
    path.with_suffix(".json").unlink()  # as earlier versions left them
    MadeTextures(images, 16, path, seed=3)


def test_a_texture_depends_on_its_image_alone(monkeypatch):
    few, many = (Shapes("train", image_size=SIZE, size=size) for size in (3, 9))
    monkeypatch.setattr("nsneg_jax.input.texture_pairs._BATCH", 8)
    np.testing.assert_array_equal(make_textures(many, SIZE, 0)[:3], make_textures(few, SIZE, 0))
    assert (make_textures(few, SIZE, 1) != make_textures(few, SIZE, 0)).any()


@pytest.mark.parametrize("size", [8, 16, 31, 32, 48, 64, 96, 128, 160, 224, 512])
def test_every_size_has_a_recipe(size):
    recipe, side = small_recipe(size)
    validate(recipe, (2, side, side))
    assert recipe.output_size == size
    if size == 224:
        assert (recipe, side) == (TextureRecipe(), 96)
