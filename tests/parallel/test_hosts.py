"""Several real processes over loopback: equal to one, resumed by others, and never left hanging."""

import json
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from answering import probe_checkpoint, shapes_config
from PIL import Image
from processes import ROOT, Processes, flags, run
from replay import trajectories
from tiny import metrics_lines, tiny_config, tiny_linear_config

import nsneg_jax
from configs import texture
from nsneg_jax.input.shapes.source import CLASSES as SHAPES
from nsneg_jax.jobs.evaluate import evaluate
from nsneg_jax.jobs.features import write_features
from nsneg_jax.jobs.knn import knn
from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.parallel import hosts, mesh
from nsneg_jax.training.checkpoints.checkpoint import find_checkpoint, read_checkpoint
from nsneg_jax.training.signals import STOP_SIGNALS

FLOAT64 = {"model.dtype": "float64"}
GOLDEN = ROOT / "tests" / "golden"


def test_all_code_of_the_package_is_compared():
    assert Path(nsneg_jax.__file__).parent == hosts.PACKAGE


def one_device():
    return jax.devices()[:1]


def pretrain_argv(config, workdir, method="patch"):
    return [*flags(config, method), f"--workdir={workdir}"]


def assert_close(a, b):
    """Plain values or trees of arrays that differ by the order of sums at most."""
    leaves, structure = jax.tree.flatten(a)
    others, other_structure = jax.tree.flatten(b)
    assert structure == other_structure
    for one, other in zip(leaves, others, strict=True):
        if np.asarray(one).dtype.kind in "US":
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def assert_same_run(a: Path, b: Path):
    assert_close(metrics_lines(a), metrics_lines(b))
    states = [read_checkpoint(find_checkpoint(workdir))[0] for workdir in (a, b)]
    assert_close(*states)


def wait_for_checkpoint(processes, workdir, seconds=600):
    """Returns soon after the first one appears; by then later ones may have replaced it."""
    end = time.monotonic() + seconds
    while not any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*")):
        assert time.monotonic() < end and processes.running[0].poll() is None
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of a run of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone")
    with jax.enable_x64(True):
        pretrain(tiny_config(epochs=2, **FLOAT64), workdir, one_device())
    jax.config.update("jax_enable_x64", False)
    return workdir


def evaluate_config(folder: Path):
    kernel = np.random.default_rng(0).normal(size=(16, 10)).astype(np.float32)
    config = shapes_config(probe_checkpoint(folder, kernel, SHAPES), "clean,cue_conflict")
    config.dtype = "float64"
    return config


@pytest.mark.parametrize(
    ("processes", "devices"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_processes_evaluate_as_one_does(tmp_path, float64, processes, devices):
    """21 images, which neither the batch of 16 nor the processes divide."""
    config = evaluate_config(tmp_path / "probe")
    expected = evaluate(config, tmp_path / "one", one_device())
    run(processes, devices, [*flags(config, "evaluate"), f"--workdir={tmp_path / 'several'}"])
    found = json.loads((tmp_path / "several" / "results.json").read_text())
    assert found["sets"]["clean"]["images"] == 21
    assert_close(found, json.loads(json.dumps(expected)))
    parts = [
        sorted(p.name for p in (tmp_path / run / "parts").iterdir()) for run in ("one", "several")
    ]
    assert parts[0] == parts[1]
    for name in parts[0]:
        with (
            np.load(tmp_path / "one" / "parts" / name) as one,
            np.load(tmp_path / "several" / "parts" / name) as several,
        ):
            assert one["key"] == several["key"]
            of_one, of_several = dict(one), dict(several)
            assert of_one.pop("made") and of_several.pop("made")  # when it was
            assert_close(of_one, of_several)


def test_another_config_is_told_before_data_is_read(tmp_path):
    argv = [*flags(tiny_config(), "patch"), f"--workdir={tmp_path}"]
    argv += ["--config.data.source=folder:/nowhere"]
    with Processes(2, 1, argv, {1: ["--config.seed=3"]}) as processes:
        (first, _, message), (second, out, quiet) = processes.wait()
    assert (first, second) == (2, 2)
    assert "Process 1 on" in message and "seed is 3, not 0" in message
    assert not out and "error" not in quiet


@pytest.mark.slow
def test_death_of_a_process_is_told_and_the_run_goes_on(tmp_path, float64):
    """After SIGKILL of process 1 and a restart, the end equals one uninterrupted process."""
    config = tiny_config(total_steps=10_000, **FLOAT64)
    with Processes(2, 1, pretrain_argv(config, tmp_path / "two")) as processes:
        wait_for_checkpoint(processes, tmp_path / "two")
        processes.running[1].kill()
        start = time.monotonic()
        (status, _, message), _ = processes.wait()
        assert time.monotonic() - start < 100  # when JAX itself would notice
    assert status == 1
    assert "process 1 on" in message and "has died" in message and "Traceback" not in message
    total = int(find_checkpoint(tmp_path / "two").name) + 3
    config = tiny_config(total_steps=total, **FLOAT64)
    out = run(2, 1, pretrain_argv(config, tmp_path / "two"))
    assert out.startswith("processes 2 on 1 host") and out.count("done: ") == 1
    pretrain(config, tmp_path / "one", one_device())
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("trajectory", trajectories(GOLDEN), ids=lambda path: path.stem)
def test_golden_trajectories(trajectory, processes):
    argv = [str(trajectory)]
    program = ROOT / "tests" / "helpers" / "golden_process.py"
    assert f"{processes} processes" in run(processes, 1, argv, program=program)


@pytest.mark.slow
def test_elastic_chain(tmp_path, float64):
    """2 processes of 2 devices, then 1 of 4, 1 of 1, 2 of 2 again: equals one process."""
    chain, straight = tmp_path / "chain", tmp_path / "straight"
    steps = {3: (2, 2), 7: (1, 4), 11: (1, 1), 14: (2, 2)}
    for total, (processes, devices) in steps.items():
        config = tiny_config(total_steps=total, **FLOAT64, log_every_steps=1)
        run(processes, devices, pretrain_argv(config, chain))
    config = tiny_config(total_steps=14, log_every_steps=1, **FLOAT64)
    pretrain(config, straight, one_device())
    assert_same_run(chain, straight)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(2, 4), (4, 2)])
def test_every_job(alone, tmp_path, float64, processes, devices):
    """80 and 20 images in batches of 32: the last is not full, and some processes have none."""
    config = tiny_linear_config(alone, dtype="float64", **{"data.eval_split": "val"})

    def jobs(act):
        for job in ("linear", "knn", "features"):
            config.job = job
            act(job)

    here, there = tmp_path / "one", tmp_path / "several"
    in_process = {"linear": linear, "knn": knn, "features": write_features}
    jobs(lambda job: in_process[job](config, here / job, one_device()))
    jobs(
        lambda job: run(processes, devices, [*flags(config, "linear"), f"--workdir={there / job}"])
    )
    assert_same_run(there / "linear", here / "linear")
    for job in ("linear", "knn"):
        found, expected = (
            json.loads((each / job / "results.json").read_text()) for each in (there, here)
        )
        assert_close(found, expected)
    with (
        np.load(there / "features" / "features.npz") as found,
        np.load(here / "features" / "features.npz") as expected,
    ):
        np.testing.assert_allclose(found["features"], expected["features"], rtol=1e-6)
        np.testing.assert_array_equal(found["labels"], expected["labels"])


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(2, 1), (2, 4), (4, 1), (4, 4)])
def test_processes_pretrain_as_one_does(alone, tmp_path, processes, devices):
    config = tiny_config(epochs=2, **FLOAT64)
    run(processes, devices, pretrain_argv(config, tmp_path))
    assert_same_run(tmp_path, alone)


@pytest.mark.slow
def test_a_split_queue_and_shuffled_crops(alone, tmp_path):
    """Each process loads its permuted crops and saves its part of queue and optimiser."""
    values = {"moco.shard_queue": True, "moco.shuffle": "data", "optimizer.shard": True}
    run(2, 2, pretrain_argv(tiny_config(epochs=2, **values, **FLOAT64), tmp_path))
    assert_same_run(tmp_path, alone)


@pytest.mark.slow
def test_monitored_texture_run(tmp_path, float64):
    """Textures are made by one process; kNN meanwhile; pictures by one."""
    values = {"epochs": 1, "knn_every_epochs": 1, "data.resize": 0, "pictures": True, **FLOAT64}
    config = tiny_config(texture, **values)
    run(2, 2, pretrain_argv(config, tmp_path / "two", "texture"))
    pretrain(config, tmp_path / "one", one_device())
    assert_same_run(tmp_path / "two", tmp_path / "one")
    pictures = [tmp_path / name / "pictures" / "views.png" for name in ("one", "two")]
    one, two = (np.asarray(Image.open(path)) for path in pictures)
    # the first device has 4 samples where there are 4
    assert 4 * 96 < len(two) < len(one)
    np.testing.assert_array_equal(two, one[: len(two)])


@pytest.mark.slow
def test_death_of_the_first_process(tmp_path):
    config = tiny_config(total_steps=10_000, **FLOAT64)
    with Processes(2, 1, pretrain_argv(config, tmp_path)) as processes:
        wait_for_checkpoint(processes, tmp_path)
        processes.running[0].kill()
        _, (status, _, message) = processes.wait()
    assert status == 1 and "process 0 on" in message and "has died" in message


@pytest.mark.slow
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_to_one_process_stops_all(alone, tmp_path, number):
    config = tiny_config(total_steps=10_000, **FLOAT64)
    with Processes(2, 1, pretrain_argv(config, tmp_path)) as processes:
        wait_for_checkpoint(processes, tmp_path)
        processes.running[1].send_signal(number)
        (first, out, _), (second, _, said) = processes.wait()
    assert (first, second) == (75, 75)
    assert f"{signal.Signals(number).name}: stopping after this step" in said
    step = find_checkpoint(tmp_path).name
    assert f"after step {step} of 10000, with everything saved" in out


@pytest.mark.slow
def test_signal_stops_an_evaluation_between_parts(tmp_path, float64):
    probe = evaluate_config(tmp_path / "probe").pretrained
    config = shapes_config(probe, "clean,corruption")
    argv = [*flags(config, "evaluate"), f"--workdir={tmp_path / 'run'}"]
    with Processes(2, 1, argv) as processes:
        while not list((tmp_path / "run").glob("parts/*.npz")):
            assert processes.running[0].poll() is None
            time.sleep(0.05)
        processes.running[1].send_signal(signal.SIGTERM)
        ended = processes.wait()
    assert [status for status, *_ in ended] == [75, 75]
    assert "with everything saved" in ended[0][1]
    assert "done before" in run(2, 1, argv)
    config.dtype = "float32"
    expected = evaluate(config, tmp_path / "one", one_device())
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["sets"]["corruption"]["images"] == expected["sets"]["corruption"]["images"]


@pytest.mark.slow
def test_other_files_on_a_host_are_told(tmp_path):
    """Each process has a copy of the data under the same name; one lacks an image."""
    for copy in ("a", "b"):
        folder = tmp_path / copy / "train" / "c"
        folder.mkdir(parents=True)
        for i in range(20 - (copy == "b")):
            Image.new("RGB", (20, 20), (i, 0, 0)).save(folder / f"{i}.png")
    argv = [*flags(tiny_config(), "patch"), f"--workdir={tmp_path / 'run'}"]
    argv += ["--config.data.source=folder:data"]
    places = [tmp_path / "at0", tmp_path / "at1"]
    for place, copy in zip(places, ("a", "b"), strict=True):
        place.mkdir()
        (place / "data").symlink_to(tmp_path / copy)
    with Processes(2, 1, argv, folders=places) as processes:
        (status, _, message), _ = processes.wait()
    told = " ".join(message.split())
    assert status == 2 and "images is 19, not 20" in told and "Process 1 on" in told


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_told(tmp_path):
    argv = flags(tiny_config(), "patch")
    own = {index: [f"--workdir={tmp_path / str(index)}"] for index in range(2)}
    with Processes(2, 1, argv, own) as processes:
        ended = processes.wait()
    assert [status for status, *_ in ended] == [2, 2]
    assert "is not one folder for all: process 1 on" in " ".join(ended[1][2].split())


def test_mesh_puts_whole_and_split_arrays():
    devices = mesh.data_mesh()
    tree = {"a": np.arange(16.0).reshape(8, 2), "b": np.arange(8)}
    for sharding in (mesh.replicated(devices), mesh.split_batch(devices)):
        placed = mesh.put(tree, sharding)
        assert_close(jax.device_get(placed), tree)
        assert placed["a"].sharding == sharding
