"""The table of corruptions: its entries, and entries added from outside."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from answering import CLASSES, answering_probe, write_image

import main
from nsneg_jax.corruptions import TABLE, corrupt, groups, image_keys, names, registry, settings_of
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation import self_test
from nsneg_jax.parallel import mesh


@pytest.fixture
def table():
    """The table, as it was again afterwards."""
    before = dict(TABLE)
    yield TABLE
    TABLE.clear()
    TABLE.update(before)


def added(name="toy", **fields):
    """Adds a corruption that lays noise over one colour."""

    @registry.corruption(name, **{"group": "noise", "settings": (0.1, 0.2)} | fields)
    def lay(images, keys, strength):
        draw = jax.vmap(lambda key: jax.random.normal(key, images.shape[2:], jnp.float32))
        return images.at[:, 0].add(strength * draw(keys))

    return lay


def test_the_draws_of_imagenet_cs_corruptions_stay_what_they_are():
    """Results that were kept rest on these numbers."""
    ordered = (*names(registry.TEST), *names(registry.EXTRA), *names(registry.SUPPRESSION))
    assert ordered == tuple(TABLE)
    numbers = [TABLE[name].draws(severity) for name, severity in settings_of()]
    assert numbers == list(range(1, 96))


def test_an_addition_has_its_place_and_moves_no_other(table):
    before = dict(table)
    added()
    added("foreign", group="compression", severities=3, settings=lambda side, s: (s / side,))
    assert names(registry.OWN) == ("toy", "foreign") == tuple(table)[-2:]
    assert {name: table[name] for name in before} == before
    assert groups()["noise"][-1] == "toy" and groups()["compression"] == ("foreign",)
    assert list(groups()) == [*registry.GROUPS, "suppression", "compression"]
    assert settings_of(registry.OWN) == (
        *(("toy", s) for s in (1, 2)),
        *(("foreign", s) for s in (1, 2, 3)),
    )
    assert table["foreign"].arrays(16, 2)[0] == np.float32(2 / 16)


def test_draws_depend_on_the_name_alone(table):
    images, keys = np.full((2, 16, 16, 3), 128, np.uint8), image_keys(0, [3, 5])
    added()
    first = np.asarray(corrupt(images, "toy", 2, keys))
    assert table["toy"].stream == zlib.crc32(b"toy")
    for name in ("toy", "speckle_noise"):
        del table[name]
    added("another")
    added()
    np.testing.assert_array_equal(corrupt(images, "toy", 2, keys), first)
    assert not np.array_equal(corrupt(images, "another", 2, keys), first)
    with pytest.raises(UsageError):
        corrupt(images, "toy", 3, keys)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("fog", {}),
        ("fog", {"kind": registry.TEST}),
        ("no name", {}),
        ("toy", {"kind": "best"}),
        ("toy", {"stream": 93}),  # two severities, of which saturate has one
        ("toy", {"stream": 2**32 - 1}),  # gaussian_noise has one
    ],
)
def test_what_cannot_be_added(table, name, fields):
    before = dict(table)
    with pytest.raises(UsageError):
        added(name, **fields)
    assert table == before


def test_the_latest_definition_of_an_own_one_counts(table):
    images, keys = np.full((1, 16, 16, 3), 128, np.uint8), image_keys(0, [3])
    for level in (0, 255):
        registry.corruption("toy", "noise", (level / 255,))(lambda x, keys, level: 0 * x + level)
        assert (np.asarray(corrupt(images, "toy", 1, keys)) == level).all()
    registry.corruption("toy", "noise", (0,))(lambda x, keys, level: 0 * x + level + 7 / 255)
    assert (np.asarray(corrupt(images, "toy", 1, keys)) == 7).all()
    assert names(registry.OWN) == ("toy",)


CONFIG = """
from configs import evaluate
from nsneg_jax.corruptions import corruption


# the probe answers the next class for each 20 grey levels of red
@corruption("darker_red", "digital", (0, -20, {strength}))
def darker_red(images, keys, levels):
    return images.at[:, 0].add(levels / 255)


def get_config(variant=""):
    config = evaluate.get_config(variant).unlock()
    config.sets.corruption = evaluate.test_set(
        "folder:{images}", split=".", resize=0, protocol="corruption", generate=True, extra=True
    )
    config.data.image_size, config.batch_size = 16, 8
    config.data.workers = 0  # which would start anew for each part
    return config.lock()
"""


def test_a_config_file_adds_and_evaluates_its_own(table, tmp_path, monkeypatch):
    """All that a user writes is such a file; the rest of the table is left out to be quick."""
    probe = answering_probe(monkeypatch, tmp_path)
    for own in (3, 6):
        for i in range(4):
            write_image(tmp_path / "images" / CLASSES[own] / f"{i}.png", own if i else own + 2)
    self_test.passed(mesh.data_mesh())  # with the whole table
    for name in set(table) - {"fog"}:
        del table[name]
    found = {}
    for strength in (-40, 0):  # another definition is another part
        config = tmp_path / "own.py"
        config.write_text(CONFIG.format(images=tmp_path / "images", strength=strength))
        arguments = [f"--config={config}", f"--workdir={tmp_path / 'out'}"]
        arguments += [f"--config.pretrained={probe}", "--config.only=corruption"]
        assert main.main(["main.py", *arguments]) == 0
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        found[strength] = results["sets"]["corruption"]["parts"]
    assert list(found[0]) == ["fog", "darker_red"]
    assert found[-40]["darker_red"] == {"1": 75, "2": 0, "3": 25}
    assert found[0]["darker_red"] == {"1": 75, "2": 0, "3": 75}
