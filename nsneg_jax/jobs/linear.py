"""The linear-probe job: trains classifiers on the features of a frozen encoder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from nsneg_jax.input.splits import open_labelled
from nsneg_jax.jobs.frozen import probe_settings
from nsneg_jax.jobs.opening import open_frozen
from nsneg_jax.jobs.probing.given import test_given
from nsneg_jax.jobs.probing.program import build, compile_steps
from nsneg_jax.jobs.probing.training import Protocol, train_classifiers
from nsneg_jax.jobs.validation import validate_linear
from nsneg_jax.methods import probe
from nsneg_jax.training.loggers.services import check_installed

_LINEAR = Protocol("A linear probe", "frozen", build, compile_steps, is_frozen=True)


def linear(
    config: ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None = None,
    on_stop: Callable[[str], None] = print,
) -> probe.ProbeState | None:
    """Trains (or, with `evaluate_only`, evaluates) the probe of `config` in `workdir`.

    Resumes from the workdir's latest checkpoint if there is one. metrics.jsonl gets a line per
    split and epoch, results.json the final figures.

    Args:
        config: config of the job; see configs/linear.py.
        workdir: folder for checkpoints, metrics.jsonl, results.json and TensorBoard events.
        devices: devices to split the batch over, by default all.
        on_stop: called with a message if a signal stopped the run before its end.

    Returns:
        The state at the end, or where a signal stopped the run; None with `evaluate_only`.

    Raises:
        UsageError: the config, the encoder, the data or the earlier run do not fit.
        RunError: a value of the backbone has changed, no classifier's loss is finite, features or
            logits of an evaluation are not finite, or a checkpoint cannot be read.
    """
    run, config = open_frozen(config, workdir, devices, validate_linear)
    check_installed(config.log.to)
    settings = probe_settings(config)
    validation = open_labelled(settings.data, settings.data.eval_split, _LINEAR.purpose)
    if settings.evaluate_only:
        test_given(run, settings, validation)
        return None
    return train_classifiers(_LINEAR, run, settings, validation, on_stop)
