"""Measures how far loss and gradients of a step are from float64; prints one JSON line.

    python -m benchmarks.rounding --arch resnet18 --width 16 --size 64 --batch 128 --devices 1,8,64

The same step runs from the same weights and views in float64, float32 and bfloat16, each on 1, 8
and 64 virtual CPU devices. Errors are relative: of the loss; of the gradient as one vector
(`gradient`, the norm of the difference over the norm); and of the worst parameter array
(`worst_array`). There are as many batch-norm groups as the most devices, so that all compute the
same. Each virtual device has its own copy of the state, so that 64 need a narrow network or much
memory. `sum` is the part of the gradient's error due to the number of devices: its distance from
the gradient on one device.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nsneg_jax import models
from nsneg_jax.errors import UsageError, tell
from nsneg_jax.jobs import build, defaults
from nsneg_jax.methods import moco
from nsneg_jax.methods.batches import Views
from nsneg_jax.models.encoder import Tree
from nsneg_jax.models.resnet import ARCHS
from nsneg_jax.parallel import mesh

DTYPES = ("float64", "float32", "bfloat16")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: no step can run with a value.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rounding",
        description="Measures the rounding of one step; prints one JSON line.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--arch", choices=tuple(ARCHS), default="resnet18")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--batch", type=int, default=256, help="images per step, over all devices")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--queue", type=int, default=1024, help="keys in the queue")
    parser.add_argument("--devices", default="1,8,64", help="numbers of devices, with commas")
    options = parser.parse_args(argv)
    try:
        options.devices = sorted({int(number) for number in options.devices.split(",")})
    except ValueError:
        options.devices = []
    if not options.devices or options.devices[0] < 1:
        raise UsageError(
            "--devices must be numbers of devices with commas, each at least 1, such as 1,8,64."
        )
    for count in options.devices:
        if options.batch % count or options.devices[-1] % count:
            raise UsageError(
                f"--devices has {count}, which must divide --batch ({options.batch}) and the most "
                f"devices ({options.devices[-1]}), whose number is that of the batch-norm groups."
            )
    return options


def one_step(options: argparse.Namespace, dtype: str, devices: int) -> tuple[float, Tree]:
    """Returns loss and gradients of the first step."""
    config = defaults.pretraining("paper")
    config.batch_size = options.batch
    config.data.image_size = options.size
    config.model.update(
        arch=options.arch, width=options.width, dtype=dtype, bn_groups=options.devices[-1]
    )
    config.model.precision = "float32"
    config.moco.queue_size = options.queue
    config.negatives.update(kind="patch", num=1, alpha=2.0)
    with jax.enable_x64(dtype == "float64"):
        encoder, params, stats = models.build(**config.model, seed=config.seed)
        # This optimiser keeps the gradients as its state.
        remember = optax.GradientTransformation(
            lambda params: params, lambda gradients, state, params: (gradients, gradients)
        )
        method = build.build_method(config, encoder, steps_per_epoch=1)
        assert isinstance(method, moco.MoCo)
        split = mesh.data_mesh(jax.devices()[:devices])
        method = dataclasses.replace(method, optimizer=remember)
        state = method.init(params, stats)
        shape = (options.batch, options.size, options.size, 3)
        drawn = np.random.default_rng(0).normal(size=(3, *shape)).astype(jnp.dtype(dtype))
        query, key, negative = map(jnp.asarray, drawn)
        views = Views(query, key, negative[:, None])

        def update(state: moco.TrainState, views: Views):
            with jax.sharding.use_abstract_mesh(split.abstract_mesh):
                return moco.update(method, state, views)

        whole, samples = mesh.replicated(split), mesh.split_batch(split)
        step = jax.jit(update, in_shardings=(whole, samples), out_shardings=whole)
        state, outputs = step(state, views)
        return np.asarray(outputs.loss, np.float64).mean().item(), jax.device_get(state.opt_state)


def distance(tree: Tree, other: Tree) -> tuple[float, float]:
    """Returns the relative distance of all arrays as one vector, and of the worst array."""
    pairs = [
        (np.float64(a), np.float64(b))
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    ]
    differences = np.array([np.linalg.norm(a - b) for a, b in pairs])
    norms = np.array([np.linalg.norm(b) for _, b in pairs])
    return float(np.linalg.norm(differences) / np.linalg.norm(norms)), max(differences / norms)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of the line."""
    exact_loss, exact = one_step(options, "float64", 1)
    rows = []
    for dtype in DTYPES:
        alone: Tree = {}
        for devices in options.devices:
            loss, gradients = one_step(options, dtype, devices)
            alone = alone or gradients
            gradient, worst = distance(gradients, exact)
            rows.append(
                {
                    "dtype": dtype,
                    "devices": devices,
                    "loss": abs(loss / exact_loss - 1),
                    "gradient": gradient,
                    "worst_array": worst,
                    "sum": distance(gradients, alone)[0],
                }
            )
    return {"benchmark": "rounding", **vars(options), "errors": rows}


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 2 a mistake of the user's."""
    try:
        options = parse(argv)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.devices[-1])
        figures = measure(options)
    except UsageError as error:
        return tell(error)
    for row in figures["errors"]:
        row |= {name: float(f"{v:.2g}") for name, v in row.items() if isinstance(v, float)}
    print(json.dumps(figures, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
