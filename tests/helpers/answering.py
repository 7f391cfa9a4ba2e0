"""A probe that reads its answer in the image, and the evaluate job on it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tiny import checkpoint_of_untrained

from configs import evaluate as evaluate_config
from nsneg_jax.jobs import evaluate as job
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints

# ten wnids, of which ImageNet-R has some and others not, in no order on disk
CLASSES = tuple(sorted(f"n0{i}44{i}76{9 - i}" for i in range(10)))
ONE = jax.devices()[:1]


def answering_probe(monkeypatch, tmp_path):
    """The workdir of a probe that reads its answer in the image: class i where red is 10 + 20 i."""

    def features(self, params, stats, images):
        red = images[:, 4, 4, 0] * 0.229 + 0.485  # ImageNet's normalisation undone
        return jax.nn.one_hot(jnp.round((red * 255 - 10) / 20).astype(int), 32)

    monkeypatch.setattr("nsneg_jax.models.encoder.Encoder.features", features)
    return probe_checkpoint(tmp_path / "probe", np.eye(32, 10, dtype=np.float32) * 5)


def evaluation_of_two(monkeypatch, tmp_path, config):
    """The command line of an evaluation of the sets a and sketch, an image each, all right."""
    probe = answering_probe(monkeypatch, tmp_path)
    arguments = [f"--config.pretrained={probe}", "--config.only=a,sketch"]
    for name in ("a", "sketch"):
        write_image(tmp_path / name / CLASSES[4] / "x.png", 4)
        arguments.append(f"--config.sets.{name}.source=folder:{tmp_path / name}")
    for field, value in {"batch_size": 8, "data.image_size": 16, "data.workers": 0}.items():
        arguments.append(f"--config.{field}={value}")
    return ["main.py", f"--config={config}", f"--workdir={tmp_path / 'out'}", *arguments]


def probe_checkpoint(workdir, kernel, classes=CLASSES):
    untrained = load_pretrained(checkpoint_of_untrained(workdir / "pretraining"))
    state = {
        "backbone": {"params": untrained.params, "stats": untrained.stats},
        "best": {"kernel": kernel[None], "bias": np.zeros((1, kernel.shape[1]), np.float32)},
    }
    progress = {"model": untrained.model, "chosen": 0, "classes": classes and list(classes)}
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(0, state, progress | {"encoder": "runs/patch, step 7"})
    return workdir


def write_image(path, answer, size=(16, 16), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10 + 20 * answer, 50, 90)).save(path, **options)


def a_config(probe, sets, **overrides):
    config = evaluate_config.get_config()
    values = {"pretrained": str(probe), "only": sets, "batch_size": 8, "data.image_size": 16}
    values |= {"data.workers": 0, "data.threads": 2}  # workers start anew for each part
    config.update_from_flattened_dict(values | overrides)
    return config


def run(config, workdir, devices=ONE):
    job.evaluate(config, workdir, devices)
    return json.loads((workdir / "results.json").read_text())["sets"]


def shapes_config(probe, only=""):
    config = evaluate_config.get_config("tiny")
    values = {"pretrained": str(probe), "only": only, "batch_size": 16, "data.image_size": 16}
    for name, each in config.sets.items():
        values[f"sets.{name}.source"] = each.source.split(":")[0] + ":21"
    config.update_from_flattened_dict(values)
    return config
