"""Opens a job: checks its config, and finds devices, workdir and the step to resume from."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.files import write_json
from nsneg_jax.parallel import mesh
from nsneg_jax.training.checkpoint import Checkpoints
from nsneg_jax.training.signals import StopSignals
from nsneg_jax.training.workdir import RESULTS, check_workdir, claim_workdir, moved_fields


class Resumption(NamedTuple):
    """What a resumable run needs.

    Attributes:
        checkpoints: checkpoints in the workdir.
        signals: signals that ask the run to stop.
        step: steps done in the newest whole checkpoint; None for a new run.
        moved: fields that may differ from the earlier start, for `Run.claim`.
        config: config in the latest checkpoint, for `Run.claim`; None if it keeps none.
    """

    checkpoints: Checkpoints
    signals: StopSignals
    step: int | None
    moved: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """A job with a checked config. Nothing is written yet.

    Attributes:
        config: fields of the config, nested dicts of JSON values.
        workdir: folder for all that the job writes.
        devices: devices to split the batch over.
        dtype, precision: dtype and precision of the encoder's computation.
    """

    config: Mapping[str, Any]
    workdir: Path
    devices: Mesh
    dtype: str
    precision: str

    @contextmanager
    def resumable(self, keep: int, keep_every: int = 0) -> Iterator[Resumption]:
        """Opens the checkpoints of a run; see `Checkpoints` for what is kept.

        Raises:
            DamagedError: all its checkpoints are damaged.
            UsageError: the workdir has a checkpoint of a run with another config.
        """
        with (
            Checkpoints(self.workdir, keep, keep_every) as checkpoints,
            StopSignals() as signals,
        ):
            found = checkpoints.newest_whole()
            if found is None:
                yield Resumption(checkpoints, signals, None)
                return
            step, progress = found
            moved = moved_fields(progress)
            kept = progress.get("config")
            check_workdir(self.config, self.workdir, moved, kept)
            yield Resumption(checkpoints, signals, step, moved, kept)

    def claim(self, resumption: Resumption | None = None) -> None:
        """Writes config.json. Call it after all checks, so that a refused run leaves none.

        Args:
            resumption: for a resumable run.

        Raises:
            UsageError: the workdir belongs to another run, see `claim_workdir`.
        """
        write = jax.process_index() == 0
        if resumption is None:
            claim_workdir(self.config, self.workdir, resuming=False, write=write)
            return
        _, _, step, moved, kept = resumption
        claim_workdir(self.config, self.workdir, step is not None, moved, kept, write=write)

    @property
    def computation(self) -> dict[str, str]:
        """The hardware and precision behind the results, to be stored with them."""
        return mesh.computation(self.devices, self.dtype, self.precision)

    def write_results(self, results: Mapping[str, Any]) -> Path:
        """Writes results.json in process 0; returns its path."""
        path = self.workdir / RESULTS
        if jax.process_index() == 0:
            write_json(path, results)
        return path


def open_run(
    config: ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None,
    validate: Callable[[ConfigDict, int], None],
    *,
    dtype: str,
    precision: str,
) -> Run:
    """Checks the values of a config and prepares the process for it.

    Args:
        config: config of the job.
        workdir: folder for all that the job writes.
        devices: devices to split the batch over; None takes all.
        validate: checks `config` for a number of devices.
        dtype, precision: dtype and precision of the encoder's computation.

    Raises:
        UsageError: a field is wrong; the message names the first one.
    """
    mesh.use_dtype(dtype)
    split = mesh.data_mesh(devices)
    validate(config, split.size)
    return Run(to_json(config), workdir, split, dtype, precision)


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Converts a config to nested dicts and lists of JSON values."""
    return json.loads(config.to_json())
