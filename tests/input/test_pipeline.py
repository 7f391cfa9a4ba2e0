"""The images of a step and their crops depend only on the seed and the step."""

import shutil
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from loading_settings import grouped
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.input.crops import resized_crop, sample_crop
from nsneg_jax.input.loading import Loaders, Steps, load_batches, prefetch_to_devices
from nsneg_jax.input.pipeline import (
    pretrain_batches,
    sample_order,
)
from nsneg_jax.input.sources.folder import Folder

IMAGES, BATCH, STEPS = 27, 8, 8  # 3 steps an epoch, 3 images left out
CROPS = ("query", "key")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        path = root / "train" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (30 + i, 60 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def source(root):
    return Folder(str(root), "train")


def batches(source, **changes):
    settings = {
        "batch_size": BATCH,
        "image_size": 16,
        "crop_scale": (0.2, 1.0),
        "seed": 3,
        "start_step": 0,
        "total_steps": STEPS,
        "threads": 2,
        "workers": 0,
    }
    steps, loaders, rest = grouped({**settings, **changes})
    return pretrain_batches(source, steps, loaders, **rest)


@pytest.fixture(scope="module")
def whole_run(source):
    return list(batches(source))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() == {"query", "key", "index", "replaced"}
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def wait_for_threads(count):
    """Waits, because threads may take a moment to stop."""
    deadline = time.monotonic() + 60
    while threading.active_count() > count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= count


def test_every_epoch_is_a_permutation_less_a_remainder():
    order = sample_order(103, 10, seed=5)
    epochs = np.stack([order[i] for i in range(40)]).reshape(4, 100)
    assert epochs.dtype == np.int64
    left_out = []
    for epoch in epochs:
        assert len(set(epoch)) == 100 and epoch.min() >= 0 and epoch.max() < 103
        left_out.append(frozenset(range(103)) - set(epoch))
    assert len(set(left_out)) == 4
    for i in range(4):
        for j in range(i):
            assert (epochs[i] == epochs[j]).mean() < 0.1
    np.testing.assert_array_equal(sample_order(103, 10, seed=5)[31], order[31])


def test_order_is_spread_evenly():
    order = sample_order(3000, 3000, seed=0)
    epochs = np.stack([order[epoch] for epoch in range(20)])
    mean_position = np.argsort(epochs, axis=1).mean(axis=0)
    standard_error = 3000 / np.sqrt(12 * 20)
    assert np.abs(mean_position - 1499.5).max() < 5 * standard_error
    assert (np.diff(epochs, axis=1) == 1).mean() < 2 / 3000  # 1 / 3000 by chance


def test_seeds_are_not_one_another_s_epochs():
    epochs = [sample_order(40, 40, seed)[epoch] for seed in range(4) for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 16


def test_batches_are_the_order_and_the_crops_of_each_place(source, whole_run):
    order = sample_order(IMAGES, BATCH, 3)
    assert len(whole_run) == STEPS
    for step, batch in enumerate(whole_run):
        np.testing.assert_array_equal(batch["index"], order[step])
        for place, index in enumerate(order[step]):
            image = source.image(index)
            key = np.array([3, step * BATCH + place], np.uint64)
            rng = np.random.Generator(np.random.Philox(key=key))
            for name in ("query", "key"):
                crop = resized_crop(image, sample_crop(rng, *image.shape[:2], (0.2, 1.0)), 16)
                np.testing.assert_array_equal(batch[name][place], crop)
    assert whole_run[0]["query"].shape == (BATCH, 16, 16, 3)
    assert whole_run[0]["query"].dtype == np.uint8


def test_crops_are_never_repeated(whole_run):
    crops = [crop.tobytes() for batch in whole_run for n in ("query", "key") for crop in batch[n]]
    assert len(set(crops)) == len(crops)


def test_seed_and_scale_matter(source, whole_run):
    other = next(batches(source, seed=4))
    assert (other["index"] != whole_run[0]["index"]).any()
    whole = next(batches(source, crop_scale=(1.0, 1.0)))
    np.testing.assert_array_equal(whole["index"], whole_run[0]["index"])
    assert (whole["query"] != whole_run[0]["query"]).any()


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_change_nothing(source, whole_run, threads):
    assert_same(list(batches(source, threads=threads)), whole_run)


@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_that_do_not_fill_a_batch_change_nothing(source, threads):
    # of 8 and 5, 6 and 1, and 3 and 1 samples, beside one by one
    one_by_one = list(batches(source, batch_size=13, threads=7))
    assert_same(list(batches(source, batch_size=13, threads=threads)), one_by_one)
    assert_same(list(batches(source, batch_size=13, threads=threads, start_step=3)), one_by_one[3:])


class Drawn:
    """An order that counts how often each step of it is made, slowly."""

    def __init__(self):
        self.steps = []

    def __getitem__(self, step):
        self.steps.append(step)
        time.sleep(0.01)
        return np.arange(32)


def test_threads_share_the_order_of_a_step():
    order = Drawn()

    class Places:
        def __init__(self):
            self.fields, self.seed = {"place": ((), np.int64)}, None

        def __call__(self, wanted, place, words, out):
            out["place"][...] = place
            return ()

    made = load_batches(order, Places(), Steps(32, 0, 6), Loaders(threads=8, workers=0))
    assert [place for batch in made for place in batch["place"]] == list(range(6 * 32))
    assert order.steps == list(range(6))


def test_workers_change_nothing(source, whole_run):
    assert_same(list(batches(source, threads=1, workers=2, start_step=2)), whole_run[2:])


@pytest.mark.parametrize("count", [2, 4, 8])
def test_processes_share_the_global_batch(source, whole_run, count):
    parts = [list(batches(source, process_index=i, process_count=count)) for i in range(count)]
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in whole_run[0]}
        for step in range(STEPS)
    ]
    assert_same(joined, whole_run)


@pytest.mark.parametrize("start", [1, 3, 5, STEPS - 1, STEPS, STEPS + 1])
def test_resume_is_the_tail(source, whole_run, start):
    assert_same(list(batches(source, start_step=start, process_count=1)), whole_run[start:])


def test_a_longer_run_begins_the_same(source, whole_run):
    longer = batches(source, total_steps=1000)
    assert_same([next(longer) for _ in range(STEPS)], whole_run)
    longer.close()


class Counted:
    """A source that counts its reads."""

    name, classes, labels = "counted", ("all",), np.zeros(1000, np.int32)

    def __init__(self):
        self.loaded = 0
        self._lock = threading.Lock()

    def __len__(self):
        return 1000

    def image(self, index):
        with self._lock:
            self.loaded += 1
        return np.full((20, 20, 3), index % 256, np.uint8)


def test_images_are_decoded_once_and_not_far_ahead():
    source = Counted()
    assert len(list(batches(source, total_steps=20))) == 20
    assert source.loaded == 20 * BATCH
    source = Counted()
    running = batches(source, total_steps=10**6)
    next(running)
    time.sleep(0.3)
    # one batch yielded, one waiting, one made and about to wait, one in single samples
    assert source.loaded <= 4 * BATCH
    running.close()


def test_closing_stops_the_threads(source):
    before = threading.active_count()
    running = batches(source, total_steps=10**6)
    next(running)
    assert threading.active_count() > before
    running.close()
    wait_for_threads(before)
    list(batches(source))
    wait_for_threads(before)


@pytest.mark.parametrize("workers", [0, 2])
def test_another_image_replaces_a_damaged_one(root, tmp_path, workers):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a").symlink_to(root / "train" / "a")
    damaged = tmp_path / "train" / "b" / "damaged.jpg"
    damaged.parent.mkdir()
    good = root / "train" / "b" / "1.jpg"
    shutil.copy(good, damaged)
    source = Folder(str(tmp_path), "train")
    whole = list(batches(source))
    damaged.write_bytes(b"no picture")
    place = source.path(len(source) - 1)
    assert place == "b/damaged.jpg"
    found = []
    made = list(batches(source, threads=2, workers=workers, on_unreadable=found.append))
    expected = sum((batch["index"] == len(source) - 1).sum() for batch in whole)
    assert len(found) == expected == sum(batch["replaced"].sum() for batch in made) > 1
    assert {(each.index, each.path) for each in found} == {(len(source) - 1, str(damaged))}
    assert "no image" in found[0].reason
    substitutes = set()
    for batch, before in zip(made, whole, strict=True):
        np.testing.assert_array_equal(batch["index"], before["index"])
        same = ~batch["replaced"]
        for name in CROPS:
            np.testing.assert_array_equal(batch[name][same], before[name][same])
        substitutes |= {crop.tobytes() for crop in batch["query"][~same]}
    assert len(substitutes) == expected
    assert_same(list(batches(source, start_step=3)), made[3:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 32}, r"has 27 images\b.* batch of 32\b"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"process_count": 3}, "8 images cannot be shared evenly by 3 processes"),
        ({"threads": 0}, "data.threads is 0"),
        ({"workers": -2}, "data.workers is -2"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_settings_are_named_at_once(source, changes, message):
    with pytest.raises(UsageError, match=message):
        batches(source, **changes)


def test_prefetch_puts_images_on_all_devices(source, whole_run):
    sharding = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
    before = threading.active_count()
    put = list(prefetch_to_devices(batches(source), sharding, CROPS))
    assert len(put) == STEPS
    for batch, expected in zip(put, whole_run, strict=True):
        assert batch.keys() == {"query", "key"}
        for name, array in batch.items():
            assert array.sharding == sharding and array.shape == (BATCH, 16, 16, 3)
            np.testing.assert_array_equal(array, expected[name])
    wait_for_threads(before)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_prefetch_looks_ahead_by_its_depth_and_closes(whole_run, depth):
    taken, closed = [], []

    def host():
        try:
            for step, batch in enumerate(whole_run):
                taken.append(step)
                yield batch
        finally:
            closed.append(True)

    sharding = NamedSharding(Mesh(jax.devices()[:1], ("data",)), PartitionSpec("data"))
    running = prefetch_to_devices(host(), sharding, CROPS, depth)
    np.testing.assert_array_equal(next(running)["key"], whole_run[0]["key"])
    deadline = time.monotonic() + 60
    while len(taken) < depth and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(taken) == depth
    running.close()
    assert closed


def test_prefetch_passes_errors_on(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    for i in range(BATCH):
        (tmp_path / "train" / "a" / f"{i}.jpg").write_bytes(b"")
    sharding = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
    with pytest.raises(UsageError, match=r"100 images .*/a/[0-9].jpg: it is empty"):
        next(prefetch_to_devices(batches(Folder(str(tmp_path), "train")), sharding, CROPS))


def test_workers_import_little():
    """A worker per processor: neither time nor memory for what only the training needs."""
    program = (
        "import sys; import nsneg_jax.input.loaders.worker, nsneg_jax.input.sources.folder\n"
        "print([name for name in ('jax', 'grain', 'scipy', 'pyarrow') if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize(
    ("processors", "accelerators", "threads", "workers"),
    [(1, 1, 1, 0), (2, 1, 2, 2), (4, 1, 4, 4), (16, 1, 4, 15), (96, 1, 4, 16), (96, 8, 4, 95)],
)
def test_loaders_follow_the_machine(processors, accelerators, threads, workers):
    chosen = Loaders(-1, -1).chosen(processors, accelerators)
    assert (chosen.threads, chosen.workers) == (threads, workers)
    assert Loaders(3, 5).chosen(processors, accelerators) == Loaders(3, 5)
