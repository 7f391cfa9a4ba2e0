"""The functions for users' own code: against formulas and the functions that the jobs call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nsneg_jax
from nsneg_jax import augment, contrastive_loss, corrupt, make_negatives, patch_negatives
from nsneg_jax.corruptions import corrupt as corrupt_each
from nsneg_jax.corruptions import image_keys
from nsneg_jax.errors import UsageError
from nsneg_jax.methods import negatives, views

N, D, K, M = 5, 8, 13, 2
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(0)
    shapes = {"q": (N, D), "k": (N, D), "queue": (K, D), "t": (N, M, D)}
    return {name: 3 * rng.normal(size=shape) for name, shape in shapes.items()}


def papers_loss(q, k, queue, t, temperature, alphas):
    """Sample by sample, in float64."""
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k, queue, t)]
    losses = []
    for i in range(len(q)):
        own, key, hard = unit[0][i], unit[1][i], unit[3][i]
        positive = np.exp(own @ key / temperature)
        others = sum(np.exp(own @ n / temperature) for n in unit[2])
        others += sum(
            np.exp(a * (own @ h) / temperature) for a, h in zip(alphas, hard, strict=True)
        )
        losses.append(-np.log(positive / (positive + others)))
    return np.mean(losses)


@pytest.mark.parametrize(
    ("temperature", "alpha", "alphas"),
    [(0.2, 2.0, (2, 2)), (0.07, 3, (3, 3)), (0.5, (1.1, 2.3), (1.1, 2.3))],
)
def test_loss_is_the_papers(embeddings, temperature, alpha, alphas):
    expected = papers_loss(**embeddings, temperature=temperature, alphas=alphas)
    given = {name: jnp.asarray(x, jnp.float32) for name, x in embeddings.items()}
    loss = contrastive_loss(**given, temperature=temperature, alpha=alpha)
    assert loss.shape == () and loss.dtype == jnp.float32
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    with jax.enable_x64(True):
        loss = contrastive_loss(**embeddings, temperature=temperature, alpha=alpha)
        assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_loss_without_nonsemantic_negatives_is_mocos(embeddings):
    q, k, queue, t = embeddings.values()
    expected = papers_loss(q, k, queue, t[:, :0], 0.2, ())
    assert float(contrastive_loss(q, k, queue)) == pytest.approx(expected, rel=1e-5)
    assert float(contrastive_loss(q, k, queue, t[:, :0])) == pytest.approx(expected, rel=1e-5)


def test_loss_does_not_see_lengths(embeddings):
    q, k, queue, t = embeddings.values()
    loss = contrastive_loss(q, k, queue, t)
    assert float(contrastive_loss(5 * q, k / 7, queue, 100 * t)) == pytest.approx(float(loss))


def test_gradients_flow_to_what_is_not_stopped(embeddings):
    stop = jax.lax.stop_gradient

    def all_free(q, k, queue, t):
        return contrastive_loss(q, k, queue, t)

    def mocos(q, k, queue, t):
        return contrastive_loss(q, stop(k), stop(queue), stop(t))

    values = [jnp.asarray(x, jnp.float32) for x in embeddings.values()]
    free = jax.jit(jax.grad(all_free, argnums=(0, 1, 2, 3)))(*values)
    stopped = jax.jit(jax.grad(mocos, argnums=(0, 1, 2, 3)))(*values)
    assert all(np.abs(gradient).max() > 1e-4 for gradient in free)
    np.testing.assert_allclose(stopped[0], free[0], atol=1e-7)
    assert not any(np.any(gradient) for gradient in stopped[1:])
    # as the formula's own differences
    step = 1e-5
    moved = {name: x.copy() for name, x in embeddings.items()}
    moved["q"][1, 2] += step
    settings = {"temperature": 0.2, "alphas": (2, 2)}
    slope = (papers_loss(**moved, **settings) - papers_loss(**embeddings, **settings)) / step
    assert float(free[0][1, 2]) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"q": np.ones(D)}, "q has the shape (8,)"),
        ({"q": np.float32(1)}, "q has the shape ()"),
        ({"k": np.ones((N + 1, D))}, "k has the shape (6, 8)"),
        ({"queue": np.ones((D, K))}, "queue has the shape (8, 13)"),
        ({"queue": np.ones((0, D))}, "queue has the shape (0, 8)"),
        ({"t": np.ones((N, D))}, "t has the shape (5, 8)"),
        ({"q": np.ones((N, D), int)}, "q has dtype int"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"alpha": (1.0, 2.0, 3.0)}, "alpha has the shape (3,)"),
    ],
)
def test_mistakes_in_the_loss_are_named(embeddings, changes, named):
    with pytest.raises(UsageError) as error:
        contrastive_loss(**embeddings | changes)
    assert str(error.value).startswith(named)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_patch_negatives_are_the_methods(dtype):
    side = 32
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(dtype)
    made = jax.jit(patch_negatives, static_argnames="num")(images, KEY, num=2)
    assert made.shape == (3, 2, side, side, 3) and made.dtype == dtype
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(3))
    draws = negatives.draw_patches(keys, 2, side, 2, 10)  # (16, 72) at 32 pixels
    expected = negatives.patch_negatives(jnp.asarray(images, jnp.float32), draws)
    np.testing.assert_array_equal(np.asarray(made, np.float32), expected)
    # an old-style key of the same data makes the same draws
    again = patch_negatives(images, jax.random.PRNGKey(3), num=2)
    np.testing.assert_array_equal(np.asarray(again), made)


def test_patch_negatives_of_another_mode():
    image = np.arange(32 * 32, dtype=np.float32).reshape(1, 32, 32, 1)
    made = patch_negatives(image, KEY, patch_size=(56, 56), mode="jigsaw")  # 4 x 4 of 8 pixels
    np.testing.assert_array_equal(np.sort(np.asarray(made), axis=None), image.ravel())
    assert not np.array_equal(made[0, 0], image[0])


def test_patch_negatives_of_larger_patches_only():
    image = np.arange(32 * 32, dtype=np.float32).reshape(1, 32, 32, 1)
    made = np.asarray(patch_negatives(image, KEY, patch_size=(70, 70)))[0, 0, :, :, 0]
    assert (np.diff(made[:10, :10], axis=1) == 1).all()
    assert (np.diff(made[:10, :10], axis=0) == 32).all()


@pytest.mark.parametrize("recipe", ["v1", "v2", views.V2])
def test_augment_is_the_methods(recipe):
    crops = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(4))
    views_of = {"v1": views.V1, "v2": views.V2}.get(recipe, recipe)
    expected = views.augment(jnp.asarray(crops), keys, views_of)
    found = augment(crops, KEY, recipe)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(augment(crops[:2], KEY, recipe), expected[:2])
    assert augment(crops, KEY, recipe, "bfloat16").dtype == jnp.bfloat16


def test_corrupt_is_the_evaluations():
    pictures = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    expected = corrupt_each(jnp.asarray(pictures), "impulse_noise", 3, image_keys(7, jnp.arange(3)))
    found = corrupt(pictures, "impulse_noise", 3, jax.random.key(7))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.uint8 and (np.asarray(found) != pictures).any()


IMAGES = np.zeros((2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: patch_negatives(IMAGES[:, :16], KEY), "images have the shape (2, 16, 32, 3)"),
        (lambda: patch_negatives(IMAGES[0], KEY), "images have the shape (32, 32, 3)"),
        (lambda: patch_negatives(IMAGES.astype(int), KEY), "dtype int"),
        (lambda: patch_negatives(IMAGES, KEY, num=0), "num is 0"),
        (lambda: patch_negatives(IMAGES, KEY, patch_size=16), "patch_size is 16"),
        (lambda: patch_negatives(IMAGES, KEY, patch_size=(72, 16)), "(72, 16)"),
        (lambda: patch_negatives(IMAGES, KEY, mode="turned"), "mode of patches is 'turned'"),
        (lambda: patch_negatives(IMAGES, 0), "key is 0"),
        (lambda: patch_negatives(IMAGES, jax.random.split(KEY, 2)), "single key"),
        (lambda: augment(IMAGES / 255, KEY), "images are float"),
        (lambda: augment(IMAGES, KEY, "v3"), "recipe is 'v3'"),
        (lambda: augment(IMAGES, KEY, dtype="int8"), "dtype is 'int8'"),
        (lambda: corrupt(IMAGES, "rain", 1, KEY), "'rain'"),
        (lambda: corrupt(IMAGES, "fog", 6, KEY), "6"),
        (lambda: corrupt(IMAGES / 255, "fog", 1, KEY), "dtype float"),
        (lambda: corrupt(np.uint8(3), "fog", 1, KEY), "[N, S, S, 3]"),
        (lambda: nsneg_jax.build_encoder("vgg"), "'vgg'"),
        (lambda: nsneg_jax.build_encoder(stem="large"), "stem is 'large'"),
        (lambda: nsneg_jax.build_encoder(depth=3), "'depth'"),
        (lambda: nsneg_jax.build_encoder(width=0), "width is 0"),
        (lambda: nsneg_jax.build_encoder(dtype="int8"), "dtype is 'int8'"),
    ],
)
def test_mistakes_are_named(call, named):
    with pytest.raises(UsageError) as error:
        call()
    assert named in str(error.value)


def test_build_encoder():
    encoder, params, stats = nsneg_jax.build_encoder("resnet8", dim=6, width=4, stem="small")
    images = np.ones((4, 8, 8, 3), np.float32)
    assert encoder.features(params, stats, images).shape == (4, 16)
    embeddings, after = encoder(params, stats, images, groups=1)
    assert embeddings.shape == (4, 6)
    assert (after["bn1"]["mean"] != stats["bn1"]["mean"]).any()


def test_other_negatives_are_made_in_the_order_of_their_names():
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    key = jax.random.key(3)
    found = make_negatives(images, key, "colour_histogram:2,low_frequency")
    assert found.shape == (2, 3, 16, 16, 3) and found.dtype == np.uint8
    for m in range(2):
        np.testing.assert_array_equal(np.sort(found[:, m].reshape(2, -1)),
                                      np.sort(images.reshape(2, -1)))  # fmt: skip
    assert (found[:, 0] != found[:, 1]).any()
    filtered = negatives.LowFrequency(10 * 16 / 224)(jnp.asarray(images, jnp.float32), None)
    np.testing.assert_array_equal(found[:, 2], jnp.rint(filtered).astype(np.uint8))
    floats = make_negatives(images / np.float32(255), key, "low_frequency")
    np.testing.assert_allclose(255 * floats[:, 0], filtered, atol=1e-3)


@pytest.mark.parametrize(
    ("kinds", "values", "named"),
    [
        ("", {}, "kinds is ''"),
        ("texture", {}, "kinds is 'texture'"),
        ("low_frequencies", {}, "'low_frequencies'"),
        ("low_frequency", {"low_pass_sigma": 0}, "low_pass_sigma is 0"),
        ("patch", {"patch_size": 16}, "patch_size is 16"),
    ],
)
def test_wrong_kinds_of_negatives(kinds, values, named):
    with pytest.raises(UsageError, match=named):
        make_negatives(np.zeros((1, 16, 16, 3), np.uint8), jax.random.key(0), kinds, **values)
