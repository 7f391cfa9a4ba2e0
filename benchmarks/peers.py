"""Starts PyTorch implementations of the step beside ours, for `benchmarks.step`."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.methods.batches import Views

PEERS = ("torch", "torch-compiled", "torch-original")


class Start(NamedTuple):
    """The common start of ours and every peer.

    Attributes:
        config: config of the step.
        state_dict: entries of both encoders under torchvision's names.
        queue: [K, dim].
        views: normalised images as float32.
    """

    config: ConfigDict
    state_dict: Mapping[str, np.ndarray]
    queue: np.ndarray
    views: Views


class Peer:
    """A peer after its first step.

    Args:
        name: one of `PEERS`.
        start: config, weights and views to start from.
        device: PyTorch's device.
        groups: batch-norm groups of the timed steps.

    Attributes:
        figures: its part of the JSON line. An `error` in it means that it cannot be measured.
        step: does one step.
    """

    def __init__(self, name: str, start: Start, device: Any, groups: int):
        import torch

        self.figures: dict[str, Any] = {"groups": groups}
        self._wait: Callable[[], None] = lambda: None
        cuda = torch.cuda if device.type == "cuda" else None
        if cuda:
            self._wait = partial(cuda.synchronize, device)
            cuda.empty_cache()
            held = cuda.memory_allocated(device)
            cuda.reset_peak_memory_stats(device)
        try:
            self.step = self._started(name, start, device, groups)
        except RuntimeError as error:  # no memory, no compiler, a failing kernel
            self.figures["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        self.figures["peak_memory_bytes"] = None
        if cuda:
            self.figures["peak_memory_bytes"] = cuda.max_memory_allocated(device) - held

    def wait_for(self, _: NamedTuple) -> None:
        """Waits until the device has done the steps so far; their outputs do not tell."""
        self._wait()

    def _started(
        self, name: str, start: Start, device: Any, groups: int
    ) -> Callable[[], NamedTuple]:
        import torch

        from benchmarks.torch_peer import OriginalMoCo, TorchMoCo

        kind = OriginalMoCo if name == "torch-original" else TorchMoCo
        compiled = name == "torch-compiled"
        moco = kind(start.config, start.state_dict, start.queue, device, groups, compiled)
        query, key, negatives = moco.views(start.views)
        loss = moco.loss(query, key, negatives, start.config.model.bn_groups)
        self.figures["first_loss"] = loss

        def first_step(batch: int) -> tuple[float, Callable[[], NamedTuple]]:
            views = query[:batch], key[:batch], tuple(each[:batch] for each in negatives)
            return float(moco.step(*views).loss), partial(moco.step, *views)

        out_of_memory = torch.cuda.OutOfMemoryError
        started = time.perf_counter()
        batch, (loss, step) = largest_that_fits(first_step, len(query), groups, out_of_memory)
        self._first_seconds = time.perf_counter() - started
        self._scale = len(query) / batch
        self.figures |= {"batch": batch, "timed_first_loss": loss}
        return step

    def add_times(
        self, turns: Sequence[float], method: Sequence[float], whole: Sequence[float]
    ) -> None:
        """Adds the figures from timing.

        Args:
            turns: seconds per step in each turn.
            method, whole: the same for our method alone and our whole step, in neighbouring turns.
        """
        seconds = statistics.median(turns)
        self.figures |= {
            "seconds_per_step": seconds,
            "images_per_second": self.figures["batch"] / seconds,
            "compile_seconds": max(0.0, self._first_seconds - seconds),
        }
        for name, ours in (("ratio", method), ("whole_ratio", whole)):
            ratios = [self._scale * theirs / our for theirs, our in zip(turns, ours, strict=True)]
            self.figures[name] = self._scale * seconds / statistics.median(ours)
            self.figures[name + "_range"] = [min(ratios), max(ratios)]


def largest_that_fits(
    attempt: Callable[[int], Any], batch: int, groups: int, out_of_memory: type[Exception]
) -> tuple[int, Any]:
    """Halves the batch until `attempt` fits into memory; returns the batch and its result.

    Raises:
        out_of_memory: not even the smallest batch that `groups` divides fits.
    """
    while True:
        try:
            return batch, attempt(batch)
        except out_of_memory:
            if batch % (2 * groups):
                raise
        batch //= 2  # outside the handler, where the exception no longer holds activations


def import_torch() -> Any:
    """Imports PyTorch.

    Raises:
        UsageError: PyTorch cannot be imported.
    """
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            f"--peer needs PyTorch, which cannot be imported here ({error}). Install it with "
            "'pip install torch', or leave --peer out to measure our step alone."
        ) from error
    return torch


def prepare_torch(torch: Any, platform_name: str, threads: int) -> Any:
    """Sets up PyTorch for the process; returns its name of JAX's device.

    Raises:
        UsageError: PyTorch cannot compute there.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    if platform_name == "cpu":
        return torch.device("cpu")
    if platform_name in ("gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", 0)
    raise UsageError(
        f"JAX computes on {platform_name!r} here and PyTorch cannot, so there is nothing to "
        "compare. Install a PyTorch for this device, or set JAX_PLATFORMS=cpu to compare on CPU."
    )
