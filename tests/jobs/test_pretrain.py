"""The pre-training job end to end: same seed, same result, stopped or not, on any devices."""

import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photo_folder import write_photos
from PIL import Image
from tiny import metrics_lines, tiny_config

import main
from configs import patch, texture
from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.evaluation import neighbours as knn
from nsneg_jax.evaluation.features import Features
from nsneg_jax.evaluation.monitoring.logistic import probe_accuracies
from nsneg_jax.evaluation.monitoring.spread import deviation, rankme
from nsneg_jax.input.loading import Loaders, Steps
from nsneg_jax.input.pipeline import pretrain_batches
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.jobs.build import build, build_views
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.methods import moco
from nsneg_jax.methods.views import normalise
from nsneg_jax.parallel import mesh
from nsneg_jax.pretrained import load_pretrained, trained_on
from nsneg_jax.report.page import images, runs
from nsneg_jax.report.pictures import save_views
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints
from nsneg_jax.training.metrics import MetricWriter

ROOT = Path(main.__file__).parent


def one_device():
    return jax.devices()[:1]


def assert_equal(a: moco.TrainState, b: moco.TrainState):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its workdir and its final state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, jax.device_get(pretrain(tiny_config(), workdir, one_device()))


def test_a_checkpoint_records_its_images(whole, tmp_path):
    recorded = trained_on(shutil.copytree(whole[0] / "checkpoints" / "20", tmp_path / "copy"))
    data = tiny_config().data
    assert recorded == trained_on(whole[0]) == {name: data[name] for name in recorded}
    assert len(recorded) == 6 and recorded["source"] == "shapes:80"


def test_files_of_a_run(whole):
    workdir, state = whole
    assert state.step == 20
    lines = metrics_lines(workdir)
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15, 18, 20]
    names = {
        "step", "split", "loss", "accuracy_top1", "accuracy_top5", "positive_similarity",
        "negative_similarity", "nonsemantic_similarity", "embedding_std", "gradient_norm",
        "learning_rate", "replaced_samples",
    }  # fmt: skip
    assert all(set(line) == names for line in lines)
    assert all(line["gradient_norm"] > 0 and line["embedding_std"] > 0.1 for line in lines)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["images_per_second"] > 0 and 0 <= last["input_wait_fraction"] <= 1
    assert json.loads((workdir / "config.json").read_text())["negatives"]["alpha"] == 2
    assert list((workdir / "tensorboard").glob("events*"))
    with Checkpoints(workdir, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 20


def test_same_seed_same_run(whole, tmp_path):
    workdir, state = whole
    config = tiny_config(**{"data.threads": 5, "log_every_steps": 3})
    again = pretrain(config, tmp_path, one_device())
    assert_equal(state, again)
    assert metrics_lines(tmp_path) == metrics_lines(workdir)


def test_checkpoints_of_every_second_epoch_are_kept(tmp_path):
    changes = {"checkpoint.keep_every_epochs": 2, "checkpoint.keep": 1, "total_steps": 14}
    pretrain(tiny_config(**changes), tmp_path, one_device())
    steps = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == {10, 14}  # 5 steps per epoch; 10 is none of every_steps, which is 4


def test_modes_of_views_and_patches_come_from_the_config():
    views = build_views(tiny_config())
    assert views.patch_mode == "crops" and not views.recipe.round_down
    changes = {"negatives.patch_mode": "rotated+flipped", "views.round_down": True}
    views = build_views(tiny_config(**changes))
    assert views.patch_mode == "rotated+flipped" and views.recipe.round_down


@pytest.mark.parametrize(
    ("recipe", "field", "value"),
    [
        (patch, "negatives.patch_mode", "mirrored"),
        (texture, "negatives.patch_mode", "jigsaw"),  # it has no patches
        (patch, "checkpoint.keep_every_epochs", -1),
    ],
)
def test_modes_and_numbers_out_of_range_are_named(recipe, field, value):
    with pytest.raises(UsageError, match=f"{field} is {value!r}"):
        validate_pretraining(tiny_config(recipe, **{field: value}), 1)


def test_another_seed_another_run(whole, tmp_path):
    _, state = whole
    other = pretrain(tiny_config(seed=1, total_steps=1), tmp_path, one_device())
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 1
    assert not np.array_equal(jax.device_get(other).queue[20:], state.queue[20:])


@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 7, 10])
def test_resume_is_bit_exact(whole, tmp_path, step):
    """Stops within an epoch (4, 7) and at its end (10), and resumes with other threads."""
    workdir, state = whole
    pretrain(tiny_config(total_steps=step), tmp_path, one_device())
    resumed = pretrain(tiny_config(**{"data.threads": 7}), tmp_path, one_device())
    assert_equal(state, resumed)
    kept = [
        line for line in metrics_lines(tmp_path) if line["step"] % 3 == 0 and line["step"] > step
    ]
    assert kept[1:] == [line for line in metrics_lines(workdir) if line in kept[1:]]


def test_signal_stops_with_everything_saved(whole, tmp_path, monkeypatch):
    """A SIGTERM in the middle leaves no trace in the result, metrics.jsonl included."""
    workdir, state = whole

    class Interrupting(MetricWriter):
        def write(self, step, split, figures):
            super().write(step, split, figures)
            os.kill(os.getpid(), signal.SIGTERM)

    said = []
    with monkeypatch.context() as patched:
        patched.setattr("nsneg_jax.jobs.pretraining.following.MetricWriter", Interrupting)
        stopped = pretrain(tiny_config(), tmp_path, one_device(), said.append)
    assert stopped.step in (3, 4)  # after its first line, or after one more step
    assert len(said) == 1 and f"SIGTERM after step {stopped.step} of 20" in said[0]
    resumed = pretrain(tiny_config(), tmp_path, one_device())
    assert_equal(state, resumed)
    assert metrics_lines(tmp_path) == metrics_lines(workdir)


def test_resume_on_other_devices_float64(tmp_path, float64):
    """1 and 8 devices, and a run that moves from 1 to 8 and back, agree to 1e-9 after 20 steps.

    On 8 the mover loads shuffled crops, and each device has a part of queue and optimiser. The
    batches, crops and draws are the same to the bit; sums over the batch are not, since each device
    adds its part first. The variant below has the colours of the views too.
    """
    values = {"views.jitter_probability": 0.0, "views.grayscale_probability": 0.0}
    values |= {"model.dtype": "float64"}
    config = tiny_config(**values)
    one = pretrain(config, tmp_path / "one", one_device())
    eight = pretrain(config, tmp_path / "eight", jax.devices())
    pretrain(tiny_config(**values, total_steps=7), tmp_path / "moved", one_device())
    spread = values | {"moco.shuffle": "data", "moco.shard_queue": True, "optimizer.shard": True}
    pretrain(tiny_config(**spread, total_steps=14), tmp_path / "moved", jax.devices())
    moved = pretrain(config, tmp_path / "moved", one_device())
    for other in (eight, moved):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
            jax.device_get(one),
            jax.device_get(other),
        )


@pytest.mark.slow
def test_resume_in_parts(tmp_path, float64):
    """To the bit; and a run at once may go on in parts, and end as it would have."""
    values = {"views.jitter_probability": 0.0, "views.grayscale_probability": 0.0}
    values |= {"model.bn_groups": 4, "model.dtype": "float64", "total_steps": 10}
    once, parts = (tiny_config(**values, **{"optimizer.accumulate": n}) for n in (1, 2))
    whole = pretrain(parts, tmp_path / "whole", one_device())
    for name, start in (("stopped", parts), ("changed", once)):
        start = start.copy_and_resolve_references()
        start.total_steps = 7
        pretrain(start, tmp_path / name, one_device())
    assert_equal(whole, pretrain(parts, tmp_path / "stopped", one_device()))
    changed = pretrain(parts, tmp_path / "changed", one_device())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
        jax.device_get(whole),
        jax.device_get(changed),
    )


@pytest.mark.slow
def test_tiny_variant_on_other_devices_float64(tmp_path, float64):
    config = patch.get_config("tiny")
    config.update_from_flattened_dict({"model.dtype": "float64", "total_steps": 20})
    one = pretrain(config, tmp_path / "one", one_device())
    eight = pretrain(config, tmp_path / "eight", jax.devices())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
        jax.device_get(one),
        jax.device_get(eight),
    )


def test_complete_run_is_left_alone(whole, capsys):
    workdir, state = whole
    before = (workdir / "metrics.jsonl").read_bytes()
    assert_equal(state, pretrain(tiny_config(), workdir, one_device()))
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_changed_config_is_refused(whole):
    workdir, _ = whole
    config = tiny_config(**{"negatives.alpha": 3.0, "moco.temperature": 0.1, "data.threads": 9})
    with pytest.raises(UsageError) as error:
        pretrain(config, workdir, one_device())
    for text in ("negatives.alpha was 2.0 and is 3.0", "moco.temperature was 0.2 and is 0.1"):
        assert text in str(error.value)
    assert "threads" not in str(error.value)


def test_a_folder_without_labels(tmp_path, capsys):
    """It is trained on, kNN is left out, and the run goes on wherever its images are."""
    write_photos(tmp_path / "photos", [f"{i}.jpg" for i in range(15)] + ["x/a.png", "x/b.png"], "")
    fields = {"data.source": f"folder:{tmp_path / 'photos'}", "checkpoint.every_steps": 2}
    config = tiny_config(total_steps=2, knn_every_epochs=1, **fields)
    pretrain(config, tmp_path / "run", one_device())
    shown = capsys.readouterr().out
    assert "17 images, no classes" in shown and "kNN and probe are left out" in shown
    measured = [line for line in metrics_lines(tmp_path / "run") if line["split"] == "val"]
    assert measured and all(
        set(line) == {"step", "split", "rankme", "feature_std"} for line in measured
    )

    os.rename(tmp_path / "photos", tmp_path / "scratch")
    fields["data.source"] = f"folder:{tmp_path / 'scratch'}"
    moved = tiny_config(total_steps=3, knn_every_epochs=1, **fields)
    assert pretrain(moved, tmp_path / "run", one_device()).step == 3
    os.rename(tmp_path / "scratch" / "3.jpg", tmp_path / "scratch" / "3 (copy).jpg")
    moved.total_steps = 4
    with pytest.raises(UsageError, match=r"image 8 is 3 \(copy\)\.jpg and was another"):
        pretrain(moved, tmp_path / "run", one_device())


def test_changed_data_is_refused(tmp_path):
    folder = tmp_path / "data" / "train" / "a"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(17):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{i}.png")
    config = tiny_config(**{"data.source": f"folder:{tmp_path / 'data'}", "total_steps": 2})
    pretrain(config, tmp_path / "run", one_device())
    (folder / "0.png").unlink()
    with pytest.raises(UsageError, match="there were 17 images and there are 16"):
        pretrain(config, tmp_path / "run", one_device())


def test_non_finite_loss_stops_without_saving(tmp_path):
    # every step multiplies the weights by -1e7
    config = tiny_config(**{"optimizer.learning_rate": 1e6, "optimizer.weight_decay": 10.0})
    with pytest.raises(RunError, match=r"not finite|is (nan|inf)") as error:
        pretrain(config, tmp_path, one_device())
    assert "learning_rate" in str(error.value)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        latest = checkpoints.latest_step()
    if latest is None:
        assert "no checkpoint" in str(error.value)
    else:
        assert str(tmp_path / "checkpoints" / str(latest)) in str(error.value)


@pytest.mark.parametrize("negatives", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_without_and_with_more_negatives(tmp_path, negatives, monkeypatch):
    values = {"total_steps": 3, "pictures": True, "moco.shuffle": "data"}
    if negatives:
        values |= {"negatives.num": negatives - 1, "negatives.more": "colour_histogram"}
    else:
        values |= {"negatives.kind": "none", "negatives.num": 0, "negatives.alpha": 0.0}
    pictured = []
    monkeypatch.setattr(
        "nsneg_jax.jobs.pretraining.pictures.save_views",
        lambda *args: (pictured.append(args[0]), save_views(*args)),
    )
    pretrain(tiny_config(**values), tmp_path, one_device())
    (line,) = metrics_lines(tmp_path)
    assert ("nonsemantic_similarity" in line) == bool(negatives)
    # query, key and the negatives side by side, 96 px a tile
    assert Image.open(tmp_path / "pictures" / "views.png").width == 4 + (2 + negatives) * 100
    (run,) = runs.read([tmp_path])
    names = ["query", "key", "patch negative", "colour_histogram negative"]
    assert [name for name, _ in images.views(run)] == names[: 2 + negatives]
    # a row is of one sample, though the run loads its keys and negatives in other orders
    (batch,) = pretrain_batches(
        Shapes("train", image_size=16, size=80), Steps(16, 0, 1), Loaders(2), image_size=16,
        crop_scale=(0.5, 1.0), seed=0,
    )  # fmt: skip
    first = {name: jnp.asarray(batch[name][:8]) for name in ("query", "key")}
    method, _ = build(tiny_config(**values | {"moco.shuffle": "device"}), 5)
    for views, expected in zip(pictured[0], jax.jit(method.views)(0, first), strict=True):
        np.testing.assert_array_equal(views, expected)


@pytest.mark.parametrize("kind", [pytest.param("texture", marks=pytest.mark.slow), "patch+texture"])
def test_texture_negatives_train_and_resume(tmp_path, kind):
    values = {"epochs": 2, "negatives.kind": kind, "model.bn_groups": 4}
    values |= {"negatives.texture_alpha": 1.5} if kind == "patch+texture" else {}
    config = tiny_config(texture, **values)
    whole = pretrain(config, tmp_path / "whole", one_device())
    stopped = pretrain(
        tiny_config(texture, **values, total_steps=7), tmp_path / "two", one_device()
    )
    assert stopped.step == 7
    assert_equal(pretrain(config, tmp_path / "two", one_device()), whole)
    last = metrics_lines(tmp_path / "whole")[-1]
    assert -1 < last["nonsemantic_similarity"] < 1
    made = [np.load(tmp_path / run / "textures.npy") for run in ("whole", "two")]
    np.testing.assert_array_equal(*made)


def test_what_is_measured_meanwhile_changes_nothing_else(whole, tmp_path):
    """Not a bit of the training, also where it resumes from the step of a measurement."""
    workdir, state = whole
    config = tiny_config(knn_every_epochs=3, **{"data.resize": 0})
    for total in (15, 0):
        config.total_steps = total
        watched = pretrain(config, tmp_path, one_device())
    assert_equal(state, watched)
    lines = metrics_lines(tmp_path)
    assert [line for line in lines if line["split"] == "train"] == metrics_lines(workdir)
    checked = [line for line in lines if line["split"] == "val"]
    assert [line["step"] for line in checked] == [15, 20]  # the last epoch besides every third
    loaded = load_pretrained(tmp_path)
    bank, queries = (
        features_of(loaded, Shapes(split, image_size=16, size=80)) for split in ("train", "val")
    )
    split = mesh.data_mesh(one_device())
    figures = knn.accuracies(bank, queries, (20, 200), 0.07, split)
    figures |= probe_accuracies(bank, queries, split)
    figures |= {"rankme": rankme(queries.features), "feature_std": deviation(queries.features)}
    measured = {name: value for name, value in checked[-1].items() if name not in ("step", "split")}
    assert measured == pytest.approx(figures, rel=1e-4)


def features_of(loaded, source) -> Features:
    images = np.stack([source.image(i) for i in range(len(source))])
    normalised = normalise(jnp.asarray(images, jnp.float32) / 255)
    found = loaded.encoder.features(loaded.params, loaded.stats, normalised)
    return Features(np.asarray(found), source.labels, np.arange(len(source)))
