"""Unreadable images in training and passes: replaced, left out, listed, and too many of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from bad_images import write_bad_images
from PIL import Image
from processes import is_running
from tiny import metrics_lines, tiny_config, tiny_linear_config

from configs import linear
from nsneg_jax.errors import UsageError
from nsneg_jax.input import loading
from nsneg_jax.input.loading import Loaders, Steps
from nsneg_jax.input.pipeline import pretrain_batches, sample_order
from nsneg_jax.input.samples import Unreadable
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.jobs.features import write_features
from nsneg_jax.jobs.knn import knn
from nsneg_jax.jobs.linear import linear as train_probe
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.training import unreadable
from nsneg_jax.training.unreadable import UnreadableImages

ROOT = Path(__file__).parents[2]


def one_device():
    return jax.devices()[:1]


def write_photographs(root, split="train", classes=("a", "b"), each=12):
    rng = np.random.default_rng(len(split))
    for name in classes:
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:02}.png")


def damage(path):
    path.write_bytes(path.read_bytes()[:60])


def config_of(root, **values):
    return tiny_config(**{"data.source": f"folder:{root}", "data.max_bad_fraction": 0.1} | values)


def listed(workdir):
    lines = (workdir / "unreadable.tsv").read_text().splitlines()
    return [Path(line.split("\t")[0]).name for line in lines]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """24 images, one of them damaged, and a pre-training on them."""
    root = tmp_path_factory.mktemp("damaged")
    write_photographs(root)
    write_photographs(root, "val", each=5)
    damage(root / "train" / "b" / "07.png")
    state = pretrain(config_of(root, total_steps=9), root / "run", one_device())
    return root, state


def test_a_training_replaces_it_and_counts(damaged):
    root, state = damaged
    assert state.step == 9 and listed(root / "run") == ["07.png"]
    order = sample_order(24, 16, seed=0)
    expected = sum(int((order[step] == 12 + 7).sum()) for step in range(9))
    lines = metrics_lines(root / "run")
    assert sum(line["replaced_samples"] for line in lines) == expected > 3


def test_a_resumed_training_replaces_the_same(damaged, tmp_path):
    root, state = damaged
    pretrain(config_of(root, total_steps=6), tmp_path, one_device())
    resumed = pretrain(config_of(root, total_steps=9), tmp_path, one_device())
    assert_equal(resumed, state)
    assert metrics_lines(tmp_path) == metrics_lines(root / "run")


def test_a_file_that_goes_bad_between_two_runs_changes_nothing_else(tmp_path):
    write_photographs(tmp_path)
    spoiled = tmp_path / "train" / "a" / "03.png"

    def load(start, total):
        source = Folder(str(tmp_path), "train")
        steps = Steps(8, start, total)
        return list(
            pretrain_batches(
                source, steps, Loaders(2), image_size=16, crop_scale=(0.2, 1.0), seed=0
            )
        )

    whole = load(0, 9)
    damage(spoiled)
    later = load(4, 9)
    assert sum(batch["replaced"].sum() for batch in later) >= 1
    for batch, before in zip(later, whole[4:], strict=True):
        kept = ~batch["replaced"]
        np.testing.assert_array_equal(batch["index"], before["index"])
        np.testing.assert_array_equal(batch["query"][kept], before["query"][kept])
        np.testing.assert_array_equal(batch["key"][kept], before["key"][kept])


def test_too_many_stop_a_training_with_everything_saved(tmp_path):
    write_photographs(tmp_path)
    run = tmp_path / "run"
    originals = {}
    for name in ("a/01.png", "a/02.png", "b/03.png", "b/04.png"):
        path = tmp_path / "train" / name
        originals[path] = path.read_bytes()
        damage(path)
    config = config_of(tmp_path, total_steps=9, **{"data.max_bad_fraction": 0.0})
    with pytest.raises(UsageError) as error:
        pretrain(config, run, one_device())
    assert "data.max_bad_fraction" in str(error.value) and "unreadable.tsv" in str(error.value)
    assert 2 <= len(listed(run)) <= 4
    steps = [int(path.name) for path in (run / "checkpoints").iterdir()]
    assert steps and max(steps) < 9
    for path, data in originals.items():
        path.write_bytes(data)
    assert pretrain(config, run, one_device()).step == 9


def test_passes_leave_it_out(damaged, tmp_path):
    root, _ = damaged
    values = {"data.source": f"folder:{root}", "data.max_bad_fraction": 0.1}
    values |= {"data.image_size": 16, "knn.k": (3,), "batch_size": 16}
    config = tiny_linear_config(root / "run", **values)
    config.job = "knn"
    knn(config, tmp_path / "knn", one_device())
    assert listed(tmp_path / "knn") == ["07.png"]
    config.job, config.data.eval_split = "features", "train"
    path = write_features(config, tmp_path / "features", one_device())
    with np.load(path) as found:
        assert len(found["features"]) == len(found["labels"]) == 23
        assert found["indices"].tolist() == [i for i in range(24) if i != 12 + 7]
        np.testing.assert_array_equal(found["labels"], (found["indices"] >= 12).astype(int))
    config.data.max_bad_fraction = 0.0
    for name in ("a/01.png", "a/02.png"):
        (root / "train" / name).rename(root / name.replace("/", "-"))
        (root / "train" / name).symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"data\.max_bad_fraction"):
        write_features(config, tmp_path / "more", one_device())
    for name in ("a/01.png", "a/02.png"):
        (root / "train" / name).unlink()
        (root / name.replace("/", "-")).rename(root / "train" / name)


def test_a_probe_replaces_it(damaged, tmp_path):
    root, _ = damaged
    values = {"data.source": f"folder:{root}", "data.max_bad_fraction": 0.1, "epochs": 2}
    values |= {"batch_size": 8}
    config = tiny_linear_config(root / "run", **values)
    state = train_probe(config, tmp_path, one_device())
    assert listed(tmp_path) == ["07.png"]
    # every sample is counted, the replaced ones too
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["validation_images"] == 10 and state is not None
    assert linear.get_config("tiny").data.max_bad_fraction == 0.001


def test_fifty_kinds_of_bad_files_in_one_training(tmp_path):
    write_photographs(tmp_path, each=20)
    kinds = write_bad_images(tmp_path / "train" / "c")
    assert len(kinds) >= 50
    source = Folder(str(tmp_path), "train")
    names = {source.path(i).removeprefix("c/"): i for i in range(len(source))}
    bad = {names[name] for name, good in kinds.items() if not good and name in names}
    assert len(bad) >= 20
    run = tmp_path / "run"
    config = config_of(tmp_path, batch_size=16, total_steps=2 * (len(source) // 16))
    config.data.max_bad_fraction = 0.9
    pretrain(config, run, one_device())
    order = sample_order(len(source), 16, seed=0)
    met = np.concatenate([order[step] for step in range(config.total_steps)])
    expected = int(np.isin(met, list(bad)).sum())
    assert sum(line["replaced_samples"] for line in metrics_lines(run)) == expected
    # substitutes that are bad themselves may be listed as well
    assert len(set(met.tolist()) & bad) <= len(listed(run)) <= len(bad)


def test_the_list_of_a_resumed_run_keeps_what_it_had(tmp_path):
    UnreadableImages(tmp_path, 100, 0.5)(Unreadable(1, "/data/a/1.png", "it is empty"))
    resumed = UnreadableImages(tmp_path, 100, 0.0)
    assert len(resumed) == 0
    resumed(Unreadable(2, "/data/a/2.png", "it is empty"))
    assert len(resumed) == 1  # only what this run has met counts against the limit
    assert unreadable.listed(tmp_path) == ["/data/a/1.png", "/data/a/2.png"]


class Stalled:
    """A source whose reads do not return until they are let go."""

    name, classes, labels = "stalled", ("a",), np.zeros(64, np.int32)

    def __init__(self):
        self.go_on = threading.Event()

    def __len__(self):
        return 64

    def image(self, index):
        if index == 5:
            self.go_on.wait(600)
        return np.full((20, 20, 3), index, np.uint8)

    def path(self, index):
        return f"a/{index}.png"


def test_a_stalled_read_is_named(monkeypatch, capfd):
    monkeypatch.setattr(loading, "_STALLED_SECONDS", 0.2)
    monkeypatch.setattr(loading, "_POLL_SECONDS", 0.1)
    source = Stalled()
    batches = pretrain_batches(
        source, Steps(64, 0, 1), Loaders(2, 0), image_size=16, crop_scale=(0.2, 1.0), seed=0
    )
    warn = loading._Batches._warn_of_stalled

    def warn_and_let_go(loader):
        warn(loader)
        if loader._warned:
            source.go_on.set()

    monkeypatch.setattr(loading._Batches, "_warn_of_stalled", warn_and_let_go)
    assert len(next(batches)["query"]) == 64
    warned = capfd.readouterr().err
    assert warned.count("a/5.png") == 1


SCRIPT = """
import jax, sys
jax.config.update("jax_platforms", "cpu")
from pathlib import Path
from tiny import tiny_config
from nsneg_jax.jobs.pretrain import pretrain
values = {"data.source": "folder:" + sys.argv[1], "data.workers": 2, "epochs": 100000}
values |= {"checkpoint.every_steps": 10**6, "log_every_steps": 1}
pretrain(tiny_config(**values), Path(sys.argv[2]), jax.devices()[:1])
"""


def started(root, workdir):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/helpers")))
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root), str(workdir)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def workers_of(process):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process.pid and b"loaders.worker" in (folder / "cmdline").read_bytes():
            found.append(int(folder.name))
    return found


def signalled(root, workdir, number, rng):
    """Signals the process group of a run with workers; all is saved after its last step."""
    process = started(root, workdir)
    time.sleep(rng.uniform(0, 0.3))
    os.killpg(process.pid, number)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]
    (saved,) = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert saved == steps[-1] == len(steps), output


def test_a_signal_to_the_group_loses_nothing(damaged, tmp_path):
    signalled(damaged[0], tmp_path, signal.SIGINT, np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_many_signals_to_the_group_lose_nothing(damaged, tmp_path, number):
    rng = np.random.default_rng(number)
    for i in range(20):
        signalled(damaged[0], tmp_path / str(i), number, rng)


def test_a_killed_run_leaves_no_worker_behind(damaged, tmp_path):
    process = started(damaged[0], tmp_path)
    workers = workers_of(process)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 120
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_worker_is_started_again(damaged, tmp_path):
    process = started(damaged[0], tmp_path)
    first = workers_of(process)
    os.kill(first[0], signal.SIGKILL)
    metrics = tmp_path / "metrics.jsonl"
    lines, deadline = metrics.read_text().count("\n"), time.monotonic() + 600
    while metrics.read_text().count("\n") < lines + 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0 and "started again" in output


class Failing(Stalled):
    """A source that fails for another reason than an unreadable image, once in 30 reads."""

    name = "failing"

    def __init__(self):
        super().__init__()
        self.go_on.set()
        self.reads = 0

    def image(self, index):
        self.reads += 1
        if self.reads > 60:
            raise OSError("the store is gone")
        return super().image(index)


def test_a_failing_input_ends_a_training_with_its_steps_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("nsneg_jax.jobs.pretraining.data.open_split", lambda *_: Failing())
    config = tiny_config(total_steps=9, **{"data.threads": 1, "checkpoint.every_steps": 100})
    with pytest.raises(OSError, match="the store is gone"):
        pretrain(config, tmp_path, one_device())
    (saved,) = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert 1 <= saved <= 3
