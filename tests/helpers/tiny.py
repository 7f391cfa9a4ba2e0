"""Configs and checkpoints small enough for a test to run a whole job."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import linear, patch
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.jobs.build import build
from nsneg_jax.jobs.opening import to_json
from nsneg_jax.methods.views import normalise
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints


def tiny_config(recipe=patch, **overrides) -> ConfigDict:
    """80 shapes of 16 px, 5 steps per epoch, 4 epochs; `overrides` by dotted name."""
    config = recipe.get_config("tiny")
    values = {
        "batch_size": 16,
        "epochs": 4,
        "log_every_steps": 3,
        "knn_every_epochs": 0,
        "data.source": "shapes:80",
        "data.image_size": 16,
        "model.width": 4,
        "model.dim": 8,
        "model.bn_groups": 2,
        "moco.queue_size": 72,
        "checkpoint.every_steps": 4,
        "pictures": False,
    }
    config.update_from_flattened_dict(values | overrides)
    return config


def metrics_lines(workdir: Path) -> list[dict]:
    """metrics.jsonl without the figures that time decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = {"images_per_second", "input_wait_fraction"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def tiny_linear_config(pretrained, **overrides) -> ConfigDict:
    """On 80 shapes of 16 px, 3 steps per epoch, 4 epochs; `overrides` by dotted name."""
    config = linear.get_config("tiny")
    values = {
        "pretrained": str(pretrained),
        "batch_size": 32,
        "epochs": 4,
        "learning_rates": (1.0,),
        "data.source": "shapes:80",
        "data.image_size": 16,
    }
    config.update_from_flattened_dict(values | overrides)
    return config


def checkpoint_of_untrained(workdir: Path, **overrides) -> Path:
    """A pre-training's checkpoint of step 7, without the wait for its training."""
    config = tiny_config(**overrides)
    _, state = build(config, 5)
    progress = {"window": {}, "images": 80, "model": to_json(config)["model"]}
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(7, state, progress)
    return workdir


def damage(folder: Path) -> None:
    """Changes a byte in the middle of each file of a checkpoint's values."""
    for path in (folder / "state").rglob("d/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)


def expected_features(pretrained: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of 83 shapes of 16 px, all in one batch."""
    loaded = load_pretrained(pretrained)
    source = Shapes(split, image_size=16, size=83)
    images = np.stack([source.image(i) for i in range(len(source))])
    features = loaded.encoder.features(
        loaded.params, loaded.stats, normalise(jnp.asarray(images, jnp.float32) / 255)
    )
    return np.asarray(features), source.labels


# no colours: their programs take long to compile and exchange nothing
PLAIN = {
    "views.jitter_probability": 0.0,
    "views.grayscale_probability": 0.0,
    "model.bn_groups": 8,
    "model.dtype": "float64",
}
