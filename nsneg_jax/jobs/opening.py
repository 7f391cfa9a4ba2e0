"""Opens a job: checks its config, and finds devices, workdir and the step to resume from."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.passes import described, shows_little, view_of
from nsneg_jax.files import write_json
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.jobs.fields.memory import check_memory
from nsneg_jax.jobs.frozen import completed, difference
from nsneg_jax.jobs.validation import check_reading
from nsneg_jax.parallel import hosts, mesh
from nsneg_jax.pretrained import trained_on
from nsneg_jax.training import starts
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints, all_checkpoints
from nsneg_jax.training.signals import StopSignals
from nsneg_jax.training.workdir import (
    CHECKPOINTS,
    RESULTS,
    STARTS,
    check_workdir,
    claim_workdir,
    moved_fields,
    refuse_links,
    step_folders,
)


class Resumption(NamedTuple):
    """What a resumable run needs.

    Attributes:
        checkpoints: checkpoints in the workdir.
        signals: signals that ask the run to stop.
        step: steps done in the newest whole checkpoint; None for a new run.
        progress: progress in that checkpoint; None for a new run.
    """

    checkpoints: Checkpoints
    signals: StopSignals
    step: int | None
    progress: Mapping[str, Any] | None

    @property
    def before(self) -> tuple[tuple[str, ...], Mapping[str, Any] | None]:
        """The arguments `moved` and `kept` of `check_workdir`, of that checkpoint."""
        progress = self.progress or {}
        return moved_fields(progress), progress.get("config")


@dataclass(frozen=True)
class Run:
    """A job with a checked config. Nothing is written yet.

    Attributes:
        config: fields of the config, nested dicts of JSON values.
        workdir: folder for all that the job writes.
        devices: devices to split the batch over.
        dtype, precision: dtype and precision of the encoder's computation.
        note: how settings of the images differ from the encoder's run, as a line; '' if they do
            not.
    """

    config: Mapping[str, Any]
    workdir: Path
    devices: Mesh
    dtype: str
    precision: str
    note: str = ""

    @contextmanager
    def resumable(self, keep: int, keep_every: int = 0) -> Iterator[Resumption]:
        """Opens the checkpoints of a run; see `Checkpoints` for what is kept.

        Raises:
            DamagedError: all its checkpoints are damaged.
            UsageError: the workdir has a checkpoint of a run with another config.
        """
        # A signal during the last save must not end the process before it is done.
        with (
            StopSignals() as signals,
            Checkpoints(self.workdir, keep, keep_every) as checkpoints,
        ):
            signals.unfinished = checkpoints.unfinished
            found = checkpoints.newest_whole()
            resumption = Resumption(checkpoints, signals, *(found or (None, None)))
            if found is not None:
                check_workdir(self.config, self.workdir, *resumption.before)
            yield resumption

    def claim(self, resumption: Resumption | None = None) -> None:
        """Writes config.json. Call it after all checks, so that a refused run leaves none.

        Args:
            resumption: for a resumable run.

        Raises:
            UsageError: the workdir belongs to another run, see `claim_workdir`.
        """
        write = jax.process_index() == 0
        step = None if resumption is None else resumption.step
        before = () if resumption is None else resumption.before
        replaced = claim_workdir(self.config, self.workdir, step is not None, *before, write=write)
        if replaced:
            print(f"note     {replaced}", flush=True)
        if write:
            starts.record(self.workdir / STARTS, step or 0, self.devices.devices.flat)

    def print_views(self, source: Source) -> None:
        """Prints how the images of a source are resized and cropped, and the note."""
        data = self.config["data"]
        view = view_of(source, data["resize"], data["image_size"])
        print(f"views    {described(view)}", flush=True)
        if shows_little(view, data["resize"]):
            print("note     --config.data.resize=256 would show more of a picture", flush=True)
        self.print_note()

    def print_note(self) -> None:
        """Prints the note, if there is one."""
        if self.note:
            print(f"note     {self.note}", flush=True)

    @property
    def computation(self) -> dict[str, str]:
        """The hardware and precision behind the results, to be stored with them."""
        return mesh.computation(self.devices, self.dtype, self.precision)

    def remove_results(self) -> None:
        """Removes the results.json of an earlier start, if there is one."""
        (self.workdir / RESULTS).unlink(missing_ok=True)

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
    check_reading(config)
    refuse_links(workdir)
    check_memory(config, split)
    return Run(to_json(config), workdir, split, dtype, precision)


def open_frozen(
    config: ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None,
    validate: Callable[[ConfigDict, int], None],
) -> tuple[Run, ConfigDict]:
    """Does `open_run` for a job with a frozen encoder, whose run has the values that are not set.

    A run that resumes keeps the values of its first start instead.

    Returns:
        The run, and the config with all values set, see `frozen.completed`.

    Raises:
        UsageError: a field is wrong, or there is no such encoder.
    """
    run = open_run(
        config, workdir, devices, validate, dtype=config.dtype, precision=config.precision
    )
    record, note = {}, ""
    if jax.process_index() == 0:
        begun = step_folders(workdir / CHECKPOINTS)
        trains = config.job in ("linear", "finetune") and not config.get("evaluate_only")
        if trains and begun:
            record = _kept_record(workdir)
        else:
            record = trained_on(config.pretrained)
            note = difference(config, record)
    record, note = hosts.of_first((record, note))
    config = completed(config, record)
    check_reading(config)
    check_memory(config, run.devices)
    return replace(run, config=to_json(config), note=note), config


def _kept_record(workdir: Path) -> dict[str, Any]:
    """Returns the record in the newest checkpoint of a probe that is not damaged."""
    for folder in reversed(all_checkpoints(workdir)):
        try:
            return trained_on(folder)
        except UsageError:
            continue
    return trained_on(workdir)


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Converts a config to nested dicts and lists of JSON values."""
    return json.loads(config.to_json())


def check_same_model(model: Mapping[str, Any], progress: Mapping[str, Any], workdir: Path) -> None:
    """Checks the network of an imported checkpoint, which has no config.json to compare with.

    Args:
        model: section `model` of this run's config.
        progress: progress of the checkpoint.
        workdir: workdir with the checkpoint, for the message.

    Raises:
        UsageError: it is another network.
    """
    before = progress.get("model", {})
    differences = [
        f"model.{name} is {before[name]!r} there and {model[name]!r} in this run"
        for name in ("arch", "dim", "mlp", "head", "head_hidden", "width", "stem")
        if name in before and before[name] != model[name]
    ]
    if differences:
        raise UsageError(
            f"The checkpoint in {workdir} holds another network: "
            + "; ".join(differences)
            + ". Set these fields with --config.model.FIELD=VALUE to resume it, or give "
            "another --workdir for a new run."
        )


def about_import(progress: Mapping[str, Any], batch_size: int, steps_per_epoch: int) -> str:
    """Returns the first message of a run that resumes an imported checkpoint."""
    origin = progress["official"]
    text = f"resumes from {origin['file']}, epoch {origin['epoch']}"
    before = origin["images"] // progress["batch_size"]
    if (before, progress["batch_size"]) != (steps_per_epoch, batch_size):
        text += (
            f"\nnote: it was imported with {before:,} steps per epoch in batches of "
            f"{progress['batch_size']}, but this run has {steps_per_epoch:,} in batches of "
            f"{batch_size}; import it with --images and --batch_size to keep its epoch"
        )
    return text


def about_queue(size: int, images: int) -> str:
    """Returns what to know about a queue that is longer than an epoch; '' otherwise."""
    if size <= images:
        return ""
    return (
        f"the queue of {size:,} keys holds several of each of the {images:,} images, so that a "
        "query is pushed away from its own image: set --config.moco.queue_size below their number"
    )
