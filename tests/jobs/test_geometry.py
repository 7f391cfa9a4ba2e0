"""What of a picture an evaluation shows to the network, at every image size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from answering import CLASSES, ONE, a_config, probe_checkpoint, run
from PIL import Image

from nsneg_jax.evaluation.passes import view_of

SIZES = (96, 112, 160, 224, 288)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return probe_checkpoint(tmp_path_factory.mktemp("probe"), np.eye(32, 10, dtype=np.float32) * 5)


@pytest.fixture
def of_the_rim(monkeypatch, probe):
    """A probe that answers class i where red is 10 + 20 i in the outer quarter of a view's area."""

    def features(self, params, stats, images):
        size = images.shape[1]
        distance = jnp.abs(jnp.arange(size) - (size - 1) / 2)
        outer = jnp.maximum(distance[:, None], distance) > 0.75**0.5 * size / 2
        red = (images[..., 0] * outer).sum((1, 2)) / outer.sum() * 0.229 + 0.485
        return jax.nn.one_hot(jnp.round((red * 255 - 10) / 20).astype(int), 32)

    monkeypatch.setattr("nsneg_jax.models.encoder.Encoder.features", features)
    return probe


def framed(answer, size=512, view=448):
    """A photograph whose central `view` pixels have the answer's colour in their outer part only.

    The inside, three quarters of the view's area less a margin, is of another class; what lies
    around the view is white.
    """
    rim = np.array([10 + 20 * answer, 50, 90], np.uint8)
    picture = np.full((size, size, 3), 255, np.uint8)
    edge = (size - view) // 2
    picture[edge : size - edge, edge : size - edge] = rim
    inner = round((size - 0.75**0.5 * view) / 2) + 12
    picture[inner : size - inner, inner : size - inner] = 10 + 20 * ((answer + 4) % 10), 50, 90
    return Image.fromarray(picture)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Photographs of 512 px and the files of 224 px that ImageNet-C's authors would make of them.

    Of twelve photographs seven have their own class at the rim.
    """
    root = tmp_path_factory.mktemp("sets")
    for number in range(12):
        own = number % 4
        photograph = framed(own if number < 7 else own + 2)
        name = f"{CLASSES[own]}/{number}.png"
        released = photograph.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
        files = {"clean/val": photograph, "c/fog/3": released, "c/jpeg_compression/1": released}
        for folder, picture in files.items():
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(root / folder / name)
    conflict = framed(2).resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    (root / "cues").mkdir()
    conflict.save(root / "cues" / "cat1-truck1.png")
    folders = {"clean": "clean", "corruption": "c", "cue_conflict": "cues"}
    sources = {f"sets.{name}.source": f"folder:{root / folder}" for name, folder in folders.items()}
    return sources | {"data.threads": 2, "data.workers": 0}


@pytest.mark.parametrize("size", SIZES)
def test_files_of_224_px_show_what_the_clean_views_show(of_the_rim, sets, tmp_path, size):
    config = a_config(of_the_rim, "clean,corruption", **sets, **{"data.image_size": size})
    figures = run(config, tmp_path / "out")
    right = pytest.approx(100 * 7 / 12)
    assert figures["clean"]["accuracy_top1"] == right
    assert figures["corruption"]["parts"] == {"fog": {"3": right}, "jpeg_compression": {"1": right}}
    assert figures["clean"]["files"] == [512, 512] and figures["corruption"]["files"] == [224, 224]
    assert figures["corruption"]["seen_percent"] == 100
    assert figures["clean"]["seen_percent"] == pytest.approx(100 * (224 / 256) ** 2, abs=1)


@pytest.mark.parametrize("size", [112, 224])
def test_cue_conflicts_are_shown_whole(of_the_rim, sets, tmp_path, size):
    """The released files have 224 px; their rim decides."""
    classes = ("n01530575", "n01531178", "n02123045", "n03796401")  # bird, bird, cat, truck
    probe = probe_checkpoint(tmp_path / "four", np.eye(32, 4, dtype=np.float32) * 9, classes)
    config = a_config(probe, "cue_conflict", **sets, **{"data.image_size": size})
    figures = run(config, tmp_path / "out", ONE)["cue_conflict"]
    assert (figures["shape_decisions"], figures["images"]) == (1, 1)
    assert figures["seen_percent"] == 100


class _OnePicture:
    def __init__(self, height, width):
        self._picture = np.zeros((height, width, 3), np.uint8)

    def __len__(self):
        return 1

    def image(self, index):
        return self._picture


@pytest.mark.parametrize(
    ("resize", "size", "seen"),
    [
        (256, 224, 76.6),  # torchvision's Resize(256) and CenterCrop(224) of a square picture
        (256, 112, 76.6),
        (224, 112, 100.0),
        (0, 224, 100.0),
        (0, 112, 25.0),  # the same files, cropped only
        (0, 288, 100.0),  # padded
    ],
)
def test_how_much_of_a_picture_is_seen_is_said(resize, size, seen):
    view = view_of(_OnePicture(224, 224), resize, size)
    assert view["files"] == [224, 224] and view["seen_percent"] == seen


def test_of_a_wide_picture_less_is_seen():
    assert view_of(_OnePicture(224, 448), 224, 112)["seen_percent"] == 50
    assert view_of(_OnePicture(224, 448), 224, 112)["files"] == [448, 224]
