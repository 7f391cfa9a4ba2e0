"""Damage of a checkpoint is found whatever it hits; the run goes on from the one before."""

import hashlib
import json
import random
import shutil
from collections import Counter

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nsneg_jax import cli
from nsneg_jax.errors import UsageError
from nsneg_jax.parallel import mesh
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints, DamagedError, read_checkpoint
from nsneg_jax.training.checkpoints.digests import state_digests, values_digest


def arrays() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {
        "double": draws.standard_normal((16, 5, 3)),
        "single": draws.standard_normal((16, 4)).astype(np.float32),
        "half": draws.standard_normal((16, 3)).astype(ml_dtypes.bfloat16),
        "long": draws.integers(0, 2**62, (16,)),
        "bytes": draws.integers(0, 255, (16, 2), np.uint8),
        "flags": draws.random(16) > 0.5,
        "scalar": np.array(7, np.int32),
        "empty": np.zeros((0, 3), np.float32),
    }


def test_digests_do_not_depend_on_where_arrays_are(float64):
    given = arrays()
    devices = mesh.data_mesh(jax.devices())
    assert devices.size == 8
    split = {
        name: jax.device_put(
            array,
            NamedSharding(
                devices, PartitionSpec(*devices.axis_names if array.shape[:1] == (16,) else ())
            ),
        )
        for name, array in given.items()
    }
    assert split["double"].dtype == np.float64 and not split["double"].is_fully_replicated
    assert state_digests(given) == state_digests(split)
    assert state_digests({"a": [given["single"]]}).keys() == {"a.0"}


def test_digest_is_documented():
    words = np.array([[5, 7], [11, 2**32 - 1]], np.uint32)
    data = b"".join(int(word).to_bytes(4, "little") for word in words.reshape(-1))
    expected = f"uint32[2,2] {hashlib.sha256(data).hexdigest()}"
    for array in (words, np.asfortranarray(words), words.astype(">u4"), jnp.asarray(words)):
        assert state_digests({"x": array}) == {"x": expected}


@pytest.mark.parametrize("name", ["double", "single", "half", "long", "bytes", "scalar"])
def test_every_single_bit_counts(name):
    array = arrays()[name]
    before = state_digests({name: array})
    draws = random.Random(1)
    for _ in range(20):
        data = bytearray(array.tobytes())
        bit = draws.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        flipped = np.frombuffer(bytes(data), array.dtype).reshape(array.shape)
        assert state_digests({name: flipped}) != before, bit


def test_places_and_kinds_count():
    array = arrays()["single"]
    digests = {
        state_digests({"x": each})["x"]
        for each in (array, array[::-1], array.reshape(8, 8), array.view(np.int32), array * 0)
    }
    assert len(digests) == 5
    assert values_digest({"a": 1, "b": 2}) == values_digest({"b": 2, "a": 1})
    assert values_digest({"a": 1}) != values_digest({"a": 1.5})


def state_of(step: int) -> dict:
    draws = np.random.default_rng(step)
    return {
        "params": {"kernel": jnp.asarray(draws.standard_normal((32, 16)), jnp.float32)},
        "queue": jnp.asarray(draws.standard_normal((24, 8)), jnp.float32),
        "step": jnp.asarray(step),
    }


def progress_of(step: int) -> dict:
    return {"images": 80, "window": {"sums": {"loss": 1.25 * step}, "steps": step}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    with Checkpoints(workdir, keep=3) as checkpoints:
        for step in (4, 8):
            checkpoints.save(step, state_of(step), progress_of(step))
    return workdir


def flip(path, draws: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place = draws.randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def truncate(path, draws: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draws.randrange(len(data))])


def drill(saved, workdir, damage, seed: int) -> str:
    """Damages one file of step 8; returns what a run makes of it, and checks that it is true."""
    draws = random.Random(seed)
    shutil.copytree(saved, workdir)
    files = sorted(p for p in (workdir / "checkpoints" / "8").rglob("*") if p.stat().st_size)
    file = draws.choice([path for path in files if path.is_file()])
    damage(file, draws)
    with Checkpoints(workdir, keep=3) as checkpoints:
        step, progress = checkpoints.newest_whole()
        state, again = checkpoints.restore(step, state_of(0))
        assert progress == again == progress_of(step), (seed, file)
        jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
        if step == 4:
            assert (workdir / "damaged-checkpoints" / "8").is_dir()
            checkpoints.save(8, state_of(8), progress_of(8))
            checkpoints.failed(wait=True)
            assert checkpoints.newest_whole() == (8, progress_of(8))
    shutil.rmtree(workdir)
    return "harmless" if step == 8 else "found"


@pytest.mark.parametrize(
    ("flips", "truncations"), [(8, 4), pytest.param(100, 50, marks=pytest.mark.slow)]
)
def test_no_damage_is_silent(saved, tmp_path, capsys, flips, truncations):
    """Seeds 0 .. flips - 1 flip a bit of one file, the rest cut a file."""
    counts = Counter()
    for seed in range(flips + truncations):
        damage = flip if seed < flips else truncate
        counts[damage.__name__, drill(saved, tmp_path / str(seed), damage, seed)] += 1
    found = counts["flip", "found"] + counts["truncate", "found"]
    assert found >= (flips + truncations) // 5
    assert capsys.readouterr().err.count("goes on from step 4") == found
    print(f"seeds 0 to {flips + truncations - 1}: {dict(counts)}")


def test_if_all_are_damaged_nothing_is_moved(saved, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    for step in ("4", "8"):
        (workdir / "checkpoints" / step / "progress" / "metadata").write_text("")
    with Checkpoints(workdir, keep=3) as checkpoints:
        with pytest.raises(DamagedError, match="no whole checkpoint before"):
            checkpoints.newest_whole()
        assert sorted(checkpoints.folder.iterdir()) == [checkpoints.folder / s for s in ("4", "8")]


def test_what_reads_a_checkpoint_refuses_a_damaged_one(saved, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    folder = workdir / "checkpoints" / "8"
    path = folder / "digests" / "metadata"
    digests = json.loads(path.read_text())
    digests["state"]["queue"] = digests["state"]["queue"][:-1] + "x"
    path.write_text(json.dumps(digests))
    with pytest.raises(UsageError, match="queue") as error:
        read_checkpoint(folder)
    assert str(folder) in str(error.value) and len(str(error.value)) < 400
    state, _ = read_checkpoint(folder, "params")  # only what is read is compared
    np.testing.assert_array_equal(state["params"]["kernel"], state_of(8)["params"]["kernel"])


def test_checkpoints_without_digests_are_read(saved, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8" / "digests")
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.newest_whole() == (8, progress_of(8))


def test_verify_names_what_is_damaged(saved, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    folders = [workdir / "checkpoints" / step for step in ("4", "8")]
    assert cli.main(["verify", str(workdir)]) == 0
    assert capsys.readouterr().out == "".join(f"{folder}\twhole\n" for folder in folders)
    shutil.rmtree(folders[0] / "digests")
    flip(folders[1] / "progress" / "metadata", random.Random(0))
    assert cli.main(["verify", str(workdir)]) == 2
    captured = capsys.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert [line[0] for line in lines] == list(map(str, folders))
    assert lines[0][1] == "no digests" and lines[1][1].startswith("damaged: ")
    assert "1 of 2" in captured.err
    assert sorted((workdir / "checkpoints").iterdir()) == folders
    assert cli.main(["verify", str(tmp_path)]) == 2  # no checkpoint there
