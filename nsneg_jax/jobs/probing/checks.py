"""Checks what the training of a linear probe relies on."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.errors import RunError
from nsneg_jax.evaluation.passes import Evaluation, means
from nsneg_jax.evaluation.protocols.finite import FEATURES, not_finite
from nsneg_jax.jobs.frozen import FinetuneSettings, ProbeSettings
from nsneg_jax.methods import probe
from nsneg_jax.models.encoder import Tree


def check_frozen(backbone: Tree, before: Tree) -> None:
    """Checks that every value of the backbone is unchanged, bit for bit.

    Raises:
        RunError: a value has changed; the message names the first such entry.
    """
    now = jax.tree.leaves(jax.device_get(backbone))
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), now, strict=True):
        if np.asarray(old).tobytes() != np.asarray(new).tobytes():
            raise RunError(
                f"The backbone's entry {jax.tree_util.keystr(path, simple=True, separator='.')} "
                "changed while the probe was trained, but must stay frozen. The run stopped "
                "without saving its figures, which would be worth nothing."
            )


def check_some_finite(
    losses: list[float],
    settings: ProbeSettings | FinetuneSettings,
    done: int,
    state: probe.ProbeState,
    evaluate: Evaluation,
) -> None:
    """Checks that the loss is finite at some learning rate.

    Args:
        losses: loss per learning rate.
        settings: settings of the job.
        done: steps done.
        state: state after them.
        evaluate: passes over the validation images.

    Raises:
        RunError: it is not; the message says whether features or learning rates are the cause.
    """
    if any(map(math.isfinite, losses)):
        return
    if isinstance(settings, FinetuneSettings):
        raise RunError(
            f"After step {done} the loss is not finite, so the run stopped without saving it. Set "
            f"a lower rate than {settings.optimizer.learning_rate:g} with "
            "--config.optimizer.learning_rate=..., and another --workdir."
        )
    if not gives_features(evaluate, state.backbone, state.classifier):
        raise not_finite(FEATURES, f"some images of the split {settings.data.eval_split!r}")
    raise RunError(
        f"After step {done} the loss is not finite at any learning rate "
        f"({', '.join(f'{rate:g}' for rate in settings.learning_rates)}), so the run stopped "
        "without saving it. Set lower ones with --config.learning_rates=..., and another --workdir."
    )


def gives_features(evaluate: Evaluation, backbone: Tree, classifier: Tree) -> bool:
    """Returns whether the features of all validation images are finite."""
    # 0 times a feature is 0, unless that is no number.
    blank = jax.tree.map(jnp.zeros_like, classifier)
    return all(map(math.isfinite, means(evaluate(backbone, blank))["loss"]))
