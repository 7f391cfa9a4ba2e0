"""Tests a probe that was trained before."""

import math

import jax
import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.outputs import Listed, check_finite, name_outputs
from nsneg_jax.evaluation.passes import Evaluation, means
from nsneg_jax.evaluation.protocols.finite import FEATURES, LOGITS, not_finite
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.input.splits import open_partial
from nsneg_jax.jobs.frozen import ProbeSettings
from nsneg_jax.jobs.opening import Run
from nsneg_jax.jobs.probing.checks import gives_features
from nsneg_jax.jobs.probing.figures import finish, plain
from nsneg_jax.jobs.probing.program import build
from nsneg_jax.parallel import mesh
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.unreadable import UnreadableImages


def test_given(run: Run, settings: ProbeSettings, validation: Source) -> None:
    """Tests the classifier that `settings.pretrained` has, and writes results.json.

    Raises:
        UsageError: there is no classifier, or its outputs are not the classes of `validation`.
        RunError: features or logits are not finite.
    """
    pretrained = load_pretrained(settings.pretrained, run.dtype, run.precision)
    if pretrained.classifier is None:
        raise UsageError(
            f"{pretrained.origin} has no classifier to evaluate. Give the workdir of a linear "
            "probe with --config.pretrained=DIR, or leave out evaluate_only to train one."
        )
    check_finite(pretrained.classifier, pretrained.origin)
    outputs = len(pretrained.classifier["bias"])
    rule = ""
    if pretrained.classes is None:
        chosen = bool(settings.data.classes)
        listed = Listed(validation.classes, validation.name, chosen)
        option = "--config.data.classes=FILE"
        naming = name_outputs(pretrained.classifier, listed, pretrained.origin, option)
        rule = naming.rule
        if naming.classes != validation.classes:
            validation = open_partial(settings.data, settings.data.eval_split, naming.classes)
    elif pretrained.classes != validation.classes:
        raise UsageError(
            f"The classifier of {pretrained.origin} has {outputs} classes, but {validation.name} "
            f"has {len(validation.classes)}, or others. Choose the classifier's classes with "
            "--config.data.classes."
        )
    run.claim()
    if rule:
        print(f"outputs  {rule}")
    run.print_views(validation)
    method, state = build(settings, pretrained, 1, outputs)
    state = mesh.put(state, mesh.replicated(run.devices))
    unreadable = UnreadableImages(run.workdir, len(validation), settings.data.max_bad_fraction)
    evaluate = Evaluation(method, settings.reading, validation, run.devices, unreadable)
    classifier = jax.tree.map(lambda leaf: np.asarray(leaf)[None], pretrained.classifier)
    figures = means(evaluate(state.backbone, classifier))
    if not math.isfinite(figures["loss"][0]):
        stage = LOGITS if gives_features(evaluate, state.backbone, classifier) else FEATURES
        raise not_finite(stage, f"some of the {len(validation):,} images of {validation.name}")
    results = {
        "job": "linear",
        "encoder": pretrained.encoder_origin,
        "encoder_seed": pretrained.encoder_seed,
        "classes": len(validation.classes),
        "validation_images": len(validation),
        **({"outputs": outputs, "output_rule": rule} if rule else {}),
        **{name: plain(values[0]) for name, values in figures.items()},
        **run.computation,
    }
    finish(run, results)
