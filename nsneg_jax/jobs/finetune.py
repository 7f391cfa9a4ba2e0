"""The fine-tuning job: trains an encoder and a classifier on labelled images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from nsneg_jax.input.splits import open_labelled
from nsneg_jax.jobs.frozen import finetune_settings
from nsneg_jax.jobs.opening import open_frozen
from nsneg_jax.jobs.probing.finetuning import build, compile_steps
from nsneg_jax.jobs.probing.training import Protocol, train_classifiers
from nsneg_jax.jobs.validation import validate_finetune
from nsneg_jax.methods import probe
from nsneg_jax.training.loggers.services import check_installed

_FINETUNING = Protocol("Fine-tuning", "fine-tuned", build, compile_steps, is_frozen=False)


def finetune(
    config: ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None = None,
    on_stop: Callable[[str], None] = print,
) -> probe.ProbeState:
    """Fine-tunes the encoder of `config` in `workdir`.

    Resumes from the workdir's latest checkpoint if there is one. metrics.jsonl gets a line per
    split and epoch, results.json the figures after the last epoch. The workdir serves `evaluate`,
    `knn`, `features` and another `finetune` as the encoder.

    Args:
        config: config of the job; see configs/finetune.py.
        workdir: folder for checkpoints, metrics.jsonl, results.json and TensorBoard events.
        devices: devices to split the batch over, by default all.
        on_stop: called with a message if a signal stopped the run before its end.

    Returns:
        The state at the end, or where a signal stopped the run.

    Raises:
        UsageError: the config, the encoder, the data or the earlier run do not fit.
        RunError: the loss is not finite, features or logits of an evaluation are not finite, or a
            checkpoint cannot be read.
    """
    run, config = open_frozen(config, workdir, devices, validate_finetune)
    check_installed(config.log.to)
    settings = finetune_settings(config)
    validation = open_labelled(settings.data, settings.data.eval_split, _FINETUNING.purpose)
    return train_classifiers(_FINETUNING, run, settings, validation, on_stop)
