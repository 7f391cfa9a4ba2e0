"""The versions of test pictures: what stays and what changes, pixel by pixel."""

import numpy as np
import pytest

from nsneg_jax.comparison import columns


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def tiles_of(picture, tiles=4):
    side = len(picture) // tiles
    return [
        picture[y * side : (y + 1) * side, x * side : (x + 1) * side]
        for y in range(tiles)
        for x in range(tiles)
    ]


def test_shuffled_pictures_have_the_same_tiles_in_another_order(pictures):
    shuffled = columns.patch_shuffled(pictures, seed=3)
    for before, after in zip(pictures, shuffled, strict=True):
        ours, theirs = ([t.tobytes() for t in tiles_of(p)] for p in (after, before))
        assert sorted(ours) == sorted(theirs) and ours != theirs
    assert (shuffled == columns.patch_shuffled(pictures, seed=3)).all()
    assert (shuffled != columns.patch_shuffled(pictures, seed=4)).any()


def test_what_is_left_over_of_the_side_stays(pictures):
    shuffled = columns.patch_shuffled(pictures[:, :30, :30], seed=0, tiles=4)
    assert (shuffled[:, 28:] == pictures[:, 28:30, :30]).all()
    assert (shuffled[:, :, 28:] == pictures[:, :30, 28:30]).all()


def test_a_picture_restyled_by_itself_stays(pictures):
    assert (columns.restyled(pictures, pictures) == pictures).all()


def test_restyling_keeps_phases_and_takes_amplitudes():
    rng = np.random.default_rng(1)
    # little contrast, so that nothing is cut off
    content, style = rng.integers(110, 146, (2, 1, 32, 32, 3), dtype=np.uint8)
    mixed = np.fft.fft2(columns.restyled(content, style).astype(float), axes=(1, 2))
    theirs = np.abs(np.fft.fft2(style.astype(float), axes=(1, 2)))
    # rounding to whole levels is noise of some 10 in each coefficient
    assert np.abs(np.abs(mixed) - theirs).max() < 60
    phases = np.angle(np.fft.fft2(content.astype(float), axes=(1, 2)))
    turned = np.angle(mixed * np.exp(-1j * phases))
    assert np.abs(turned[theirs > 300]).max() < 0.2


def test_contours_stay_in_place_when_restyled():
    """A square on a ground, restyled by noise: the strongest edges are still the square's."""
    picture = np.full((1, 32, 32, 3), 60, np.uint8)
    picture[:, 8:24, 8:24] = 200
    noise = np.random.default_rng(0).normal(128, 25, (1, 32, 32, 3)).clip(0, 255).astype(np.uint8)
    changed = columns.restyled(picture, noise)[0, ..., 0].astype(float)
    jumps = np.abs(np.diff(changed[8:24], axis=1)).mean(axis=0)
    assert set(np.argsort(jumps)[-2:]) == {7, 23}


def test_styles_are_of_other_classes():
    labels = np.array([0] * 10 + [1] * 3 + [2])
    chosen = columns.styles_of(labels, seed=0)
    assert (labels[chosen] != labels).all()
    assert (chosen == columns.styles_of(labels, seed=0)).all()


def test_edges_are_dark_where_the_luminance_changes():
    picture = np.full((1, 32, 32, 3), 40, np.uint8)
    picture[:, :, 16:] = 200
    drawn = columns.edges(picture)[0]
    assert (drawn[:, [15, 16]] == 0).all()
    assert (drawn[:, :14] == 255).all() and (drawn[:, 18:] == 255).all()
    assert (drawn == drawn[..., :1]).all()
    assert (columns.edges(np.full((1, 32, 32, 3), 77, np.uint8)) == 255).all()


def test_a_corruption_of_many_pictures_depends_on_each_alone(pictures, monkeypatch):
    whole = columns.corrupted(pictures, "contrast", 3)
    assert whole.std() < pictures.std() / 2
    monkeypatch.setattr(columns, "_AT_ONCE", 4)  # two parts that overlap
    assert (columns.corrupted(pictures, "contrast", 3) == whole).all()


def test_every_column_has_its_pictures(pictures, monkeypatch):
    monkeypatch.setattr(columns, "CORRUPTIONS", (("contrast", 3),))
    made = columns.versions(pictures, np.array([0, 0, 0, 1, 1, 1]))
    assert {name.partition("/")[0] for name in made} == {c.name for c in columns.COLUMNS}
    assert all(v.shape == pictures.shape and v.dtype == np.uint8 for v in made.values())
    assert (made["clean"] == pictures).all()
    assert [c.name for c in columns.COLUMNS if not c.keeps_shape] == ["shuffled"]
