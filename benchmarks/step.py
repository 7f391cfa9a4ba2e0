"""Measures speed and memory of one training step; prints one JSON line.

    python -m benchmarks.step --arch resnet50 --batch 16 --size 224 --dtype float32 --steps 5
    python -m benchmarks.step --arch resnet18 --batch 32 --size 64 --steps 20 --peer torch
    python -m benchmarks.step --arch resnet50 --batch 512 --dtype bfloat16 --queue 16384 \
        --groups 8 --steps 20 --profile --peer torch-compiled --peer torch-original

Fields of the line:

* `seconds_per_step`, `images_per_second`, `compile_seconds`, `program_bytes`: our whole jitted
  `train_step` from uint8 crops: augmentation, patch negatives, all passes, queue, SGD.
* `method_...`: the same for `moco.update` alone, on views made beforehand.
* `flops_per_step`, `bytes_per_step`, each also per second and as a share of the device's peak, and
  the same under `method_...`: see benchmarks/hardware.py. The peak is for bfloat16, whatever
  --dtype; the share is null for devices that the file does not list.
* `first_loss`: loss of our method on the first views.
* `peak_memory_bytes`: peak memory of our programs; on CPU the process's largest resident size,
  including compilation, before the peers' first steps. `program_bytes`: XLA's figure for one
  program.
* `profile`: with --profile, the most expensive kernels of our whole step (benchmarks/kernels.py).
* `peers`: by name, the original's step in PyTorch (benchmarks/torch_peer.py) on the same views,
  from the same weights, with the same number of threads. `torch` is tuned by hand, `torch-compiled`
  runs its encoders through `torch.compile`, `torch-original` has the costs of the original's code
  and computes in float32, whatever --dtype. Each has:
  * `seconds_per_step`, `images_per_second`; `compile_seconds`: extra time of its first step;
    `peak_memory_bytes`: on GPUs, PyTorch's peak allocation during its first step.
  * `ratio`: its time divided by our method's; above 1, ours is faster; `ratio_range`: the smallest
    and the largest ratio of neighbouring turns. `whole_ratio`, `whole_ratio_range`: the same
    against our whole step, which makes the views too.
  * `first_loss`: with our batch-norm groups, not compiled; both compute the same.
    `timed_first_loss`: loss of the first timed step, with `groups` groups (--peer-groups): PyTorch
    users have one group per GPU, and several groups, one after another, take longer. With several
    groups, `torch-original` shuffles them.
  * `batch`: images per step, fewer than ours if PyTorch runs out of memory beside us; ratios are
    then per image. `error`: why it could not be measured; the exit status is then 1.
* `peer`, `peer_first_loss`, `peer_seconds_per_step`, `ratio` and so on: figures of the first peer.

Times are medians over the steps, without compilation. The programs take turns, one step each on
CPU, so that other load affects all of them alike.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import kernels, peers
from benchmarks.hardware import Work, rates, work_of
from benchmarks.memory import peak_of
from nsneg_jax.errors import UsageError, tell
from nsneg_jax.jobs import defaults
from nsneg_jax.jobs.build import build
from nsneg_jax.methods import moco
from nsneg_jax.methods.batches import Views
from nsneg_jax.models.resnet import ARCHS
from nsneg_jax.parallel import mesh
from nsneg_jax.pytorch.names import to_state_dict
from nsneg_jax.training.step import compile_step

Figures = dict[str, Any]

# Steps per turn on an accelerator, where the host may run ahead, as in training.
_STEPS_PER_TURN = 10
# PyTorch's idle threads spin for some milliseconds before they sleep.
_PAUSE_BETWEEN_TURNS = 0.05
_PROFILED_STEPS = 2


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: no step can run with a value.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step",
        description="Measures one training step; prints one JSON line.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--arch", choices=tuple(ARCHS), default="resnet50")
    parser.add_argument("--batch", type=int, default=16, help="images per step, over all devices")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each program")
    parser.add_argument("--queue", type=int, default=4096, help="keys in the queue")
    parser.add_argument("--negatives", type=int, default=1, help="patch negatives per image")
    parser.add_argument("--groups", type=int, default=1, help="batch-norm groups")
    parser.add_argument(
        "--separate-passes", action="store_true", help="key and negatives one after another"
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        choices=peers.PEERS,
        help="also measure this implementation; may be given several times",
    )
    parser.add_argument(
        "--peer-groups", type=int, default=1, help="batch-norm groups of the peers' timed steps"
    )
    parser.add_argument(
        "--profile", action="store_true", help="name the most expensive kernels of our step"
    )
    options = parser.parse_args(argv)

    def expect(name: str, holds: bool, expected: str) -> None:
        if not holds:
            value = getattr(options, name.replace("-", "_"))
            raise UsageError(f"--{name} is {value}, but must be {expected}.")

    for name in ("batch", "steps", "groups"):
        expect(name, getattr(options, name) > 0, "at least 1")
    expect("negatives", options.negatives >= 0, "at least 0")
    expect("size", options.size >= 32, "at least 32 pixels, so that every stage has some left")
    expect(
        "batch",
        options.batch % options.groups == 0,
        f"a multiple of --groups, {options.groups}",
    )
    expect("queue", options.queue >= options.batch, f"at least --batch, {options.batch}")
    expect(
        "peer-groups",
        options.peer_groups > 0 and options.batch % options.peer_groups == 0,
        f"a divisor of --batch, {options.batch}",
    )
    if "torch-original" in options.peer:
        expect(
            "queue",
            options.queue % options.batch == 0,
            f"a multiple of --batch, {options.batch}, as the original demands",
        )
    return options


def benchmark_config(options: argparse.Namespace) -> ConfigDict:
    """Returns the paper's pre-training config with the sizes of the command line."""
    config = defaults.pretraining("paper")
    config.batch_size = options.batch
    config.data.image_size = options.size
    config.model.update(arch=options.arch, dtype=options.dtype, bn_groups=options.groups)
    config.moco.update(queue_size=options.queue, merge_passes=not options.separate_passes)
    if options.negatives:
        config.negatives.update(kind="patch", num=options.negatives, alpha=2.0)
    return config


class Program(NamedTuple):
    """A compiled step: `run` does one and returns arrays to wait for."""

    name: str
    run: Callable[[], Any]
    wait: Callable[[Any], Any]


class OurPrograms:
    """Our two programs; they take turns on one state, which each donates."""

    def __init__(self, config: ConfigDict, devices: jax.sharding.Mesh):
        whole, split = mesh.replicated(devices), mesh.split_batch(devices)
        method, state = build(config, steps_per_epoch=1000)
        assert isinstance(method, moco.MoCo)
        self.state = jax.device_put(state, whole)
        shape = (config.batch_size, config.data.image_size, config.data.image_size, 3)
        crops = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
        self.batch = jax.device_put({"query": crops[0], "key": crops[1]}, split)
        self.views = jax.jit(method.views, out_shardings=split)(0, self.batch)

        def method_update(state: moco.TrainState, views: Views) -> tuple[moco.TrainState, Any]:
            state, outputs = moco.update(method, state, views)
            return state, outputs.loss

        update = jax.jit(method_update, in_shardings=(whole, split), donate_argnums=0)
        self.figures: Figures = {}
        self.work: dict[str, Work] = {}
        self._config, self._devices = config, devices.size
        self._step = self._compile("", compile_step(method, devices), self.batch)
        self.hlo = self._step.as_text()
        self._update = self._compile("method_", update, self.views)

    def _compile(self, prefix: str, function: Any, inputs: Any) -> Any:
        start = time.perf_counter()
        traced = function.trace(self.state, inputs)
        compiled = traced.lower().compile()
        self.figures[prefix + "compile_seconds"] = time.perf_counter() - start
        memory = compiled.memory_analysis()
        self.figures[prefix + "program_bytes"] = memory and (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
        self.work[prefix] = work_of(traced, compiled, self._devices)
        return compiled

    def start(self) -> peers.Start:
        """Returns the start of the peers: our state and views before the first step."""
        return peers.Start(
            self._config,
            to_state_dict(self.state.params_q, self.state.stats_q),
            np.asarray(self.state.queue),
            jax.tree.map(lambda view: np.asarray(view, np.float32), self.views),
        )

    def step(self) -> dict[str, jax.Array]:
        """Runs the whole training step."""
        self.state, metrics = self._step(self.state, self.batch)
        return metrics

    def update(self) -> jax.Array:
        """Runs the method alone; returns the losses."""
        self.state, losses = self._update(self.state, self.views)
        return losses


def measure(options: argparse.Namespace) -> Figures:
    """Returns the figures of the JSON line.

    Raises:
        UsageError: a peer cannot run, or the batch does not suit the devices.
    """
    if options.peer:
        # Two frameworks share the card, so neither may preallocate all its memory.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        torch = peers.import_torch()
    # A peer is one process on one device.
    devices = mesh.data_mesh(jax.devices()[:1] if options.peer else None)
    if options.batch % devices.size:
        raise UsageError(
            f"--batch is {options.batch}, but must be a multiple of the {devices.size} devices."
        )
    device = devices.devices.flat[0]
    has_affinity = hasattr(os, "sched_getaffinity")
    threads = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    config = benchmark_config(options)

    ours = OurPrograms(config, devices)
    if options.peer:
        # Here, because our next step donates the state that all start from.
        torch_device = peers.prepare_torch(torch, device.platform, threads)
        start = ours.start()
    first_loss = float(ours.update().mean())
    jax.block_until_ready(ours.step())
    figures: Figures = {
        "benchmark": "step",
        **{name: value for name, value in vars(options).items() if name not in ("peer", "profile")},
        "device": device.device_kind,
        "platform": device.platform,
        "devices": devices.size,
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "versions": _versions(("jax", "jaxlib", "flax", *(["torch"] if options.peer else []))),
        **ours.figures,
        "peak_memory_bytes": peak_of(device),
        "first_loss": first_loss,
    }
    programs = [
        Program("", ours.step, jax.block_until_ready),
        Program("method_", ours.update, jax.block_until_ready),
    ]
    started = {}
    for name in dict.fromkeys(options.peer):
        peer = started[name] = peers.Peer(name, start, torch_device, options.peer_groups)
        if "error" not in peer.figures:
            programs.append(Program(name, peer.step, peer.wait_for))

    per_turn = 1 if device.platform == "cpu" else _STEPS_PER_TURN
    seconds = take_turns(programs, options.steps, per_turn)
    for prefix, work in ours.work.items():
        median = statistics.median(seconds[prefix])
        figures[prefix + "seconds_per_step"] = median
        figures[prefix + "images_per_second"] = options.batch / median
        achieved = rates(work, median, device.device_kind, devices.size)
        figures |= {prefix + name: value for name, value in achieved.items()}
    for name, peer in started.items():
        if name in seconds:
            peer.add_times(seconds[name], method=seconds["method_"], whole=seconds[""])
    if started:
        figures["peers"] = {name: peer.figures for name, peer in started.items()}
        figures |= _of_first_peer(figures["peers"])
    if options.profile:
        figures["profile"] = kernels.profile(ours.step, _PROFILED_STEPS, ours.hlo)
    figures["load_average"] = os.getloadavg()[0]
    return figures


def _of_first_peer(measured: dict[str, Figures]) -> Figures:
    """Returns the first peer's figures under separate names."""
    name, figures = next(iter(measured.items()))
    ratios = {key: value for key, value in figures.items() if "ratio" in key}
    others = {f"peer_{key}": value for key, value in figures.items() if key not in ratios}
    return {"peer": name, **others, **ratios}


def take_turns(
    programs: Sequence[Program], steps: int, per_turn: int = 1
) -> dict[str, list[float]]:
    """Returns seconds per step of each program in each turn, after one uncounted turn.

    Args:
        programs: programs in their running order.
        steps: steps to time per program, rounded up to whole turns.
        per_turn: steps per turn; the host waits for the device only at its end.
    """
    seconds: dict[str, list[float]] = {program.name: [] for program in programs}
    for turn in range(1 + -(-steps // per_turn)):
        for program in programs:
            time.sleep(_PAUSE_BETWEEN_TURNS)
            start = time.perf_counter()
            for _ in range(per_turn):
                result = program.run()
            program.wait(result)
            if turn > 0:
                seconds[program.name].append((time.perf_counter() - start) / per_turn)
    return seconds


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in packages}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 1 a peer failed, 2 a mistake of the user's."""
    try:
        figures = measure(parse(argv))
    except UsageError as error:
        return tell(error)
    print(json.dumps(_rounded(figures), allow_nan=False))
    failed = [name for name, peer in figures.get("peers", {}).items() if "error" in peer]
    for name in failed:
        print(f"error: {name}: {figures['peers'][name]['error']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
