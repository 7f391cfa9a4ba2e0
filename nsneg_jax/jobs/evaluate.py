"""The robustness job: evaluates a trained probe on many test sets, one row of the paper's table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation import self_test, summary
from nsneg_jax.evaluation.classifier import Classifier
from nsneg_jax.evaluation.outputs import Listed, check_finite, classes_of_sets, name_outputs
from nsneg_jax.evaluation.passes import described, view_of
from nsneg_jax.evaluation.protocols import per_class, timm
from nsneg_jax.evaluation.protocols.imagenet import wnids
from nsneg_jax.evaluation.released import RELEASED
from nsneg_jax.evaluation.sets import Part, plan
from nsneg_jax.files import user_path, write_text
from nsneg_jax.input.sources.lists.class_list import advice, by_themselves, class_names, resolved
from nsneg_jax.jobs.evaluating.kept_parts import KeptParts
from nsneg_jax.jobs.frozen import EvaluationSettings, evaluation_settings
from nsneg_jax.jobs.opening import Run, open_frozen
from nsneg_jax.jobs.validation import validate_evaluate
from nsneg_jax.parallel import hosts, mesh
from nsneg_jax.pretrained import Pretrained, load_pretrained
from nsneg_jax.training.progress import Progress
from nsneg_jax.training.signals import StopSignals, stopped
from nsneg_jax.training.workdir import PER_CLASS


def evaluate(
    config: ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None = None,
    on_stop: Callable[[str], None] = print,
) -> dict | None:
    """Evaluates the classifier of `config` on every available test set.

    WORKDIR/parts gets the answers per image as soon as a part (a set, or a corruption and severity)
    is finished; a stopped run resumes with the next part. A change of classifier, of a set's
    settings or of its files repeats the parts it affects.

    Args:
        config: config of the job; see configs/evaluate.py.
        workdir: folder for parts/, results.json, per_class.tsv, the decisions on cue conflicts and
            config.json.
        devices: devices to split the batch over, by default all.
        on_stop: called with a message if a signal stopped the run before its end.

    Returns:
        The contents of results.json; None if a signal stopped the run.

    Raises:
        UsageError: the config, the classifier or a set does not fit, or, with `require_all`, a set
            is missing.
        RunError: the evaluation's self-test is off, or features or logits are not finite.
    """
    run, config = open_frozen(config, workdir, devices, validate_evaluate)
    settings = evaluation_settings(config)
    evaluated = _open(run, settings)
    kept = KeptParts(workdir, settings, evaluated.pretrained, evaluated.classes, evaluated.parts)
    before = kept.made()
    if not _evaluate_others(run, settings, evaluated, kept, before, on_stop):
        return None
    results = None
    if jax.process_index() == 0:
        by_set = kept.by_set()
        evaluated.missing.update(_unreadable(by_set))
        results = _results(run, settings, evaluated, by_set, before)
        path = run.write_results(results)
        _write_tables(settings, workdir, evaluated, by_set, results)
        print(f"done: {path}; `nsneg report {workdir}` makes the table")
    return hosts.of_first(results)


@dataclass(frozen=True)
class _Evaluated:
    """What is evaluated.

    `rule` says how the classes of the first outputs were found ('' if recorded), of `outputs` in
    all. `missing` says where to get the sets that are not there, `views` describes those that are,
    and `checked` is what the self-test found.
    """

    pretrained: Pretrained
    classes: tuple[str, ...]
    rule: str
    outputs: int
    parts: Sequence[Part]
    missing: dict[str, str]
    views: dict[str, dict[str, Any]]
    checked: Any


def _open(run: Run, settings: EvaluationSettings) -> _Evaluated:
    """Opens classifier and sets, tests the evaluation itself, and reports all of it."""
    pretrained = load_pretrained(settings.pretrained, run.dtype, run.precision)
    classes, rule, count = _classes(settings, pretrained)
    parts, missing = plan(
        settings.sets,
        classes,
        only=settings.only,
        require_all=settings.require_all,
        image_size=settings.reading.image_size,
        tfds_dir=settings.tfds_dir,
        outputs=count,
        seed=settings.seed,
    )
    if settings.csv:
        timm.check(user_path(settings.csv), sorted({part.set_name for part in parts}))
    checked = self_test.passed(run.devices)
    run.claim()
    print(f"classifier  {pretrained.origin}: {len(classes):,} classes")
    if rule:
        print(f"outputs     {rule}")
    run.print_note()
    for line in _missing_lines(missing, classes):
        print(f"missing     {line}")
    views = _views(parts, settings)
    for name, view in views.items():
        print(f"views       {name}: {described(view)}")
    return _Evaluated(pretrained, classes, rule, count, parts, missing, views, checked)


def _missing_lines(missing: Mapping[str, str], classes: Sequence[str]) -> list[str]:
    """Returns a line per missing set, and one for all released ones if they have other classes."""
    foreign = [name for name in missing if name in RELEASED and name != "clean"]
    if len(foreign) < 2 or set(classes) & set(wnids()):
        return [f"{name}: {where}" for name, where in missing.items()]
    lines = [f"{name}: {where}" for name, where in missing.items() if name not in foreign]
    return [
        *lines,
        f"{len(foreign)} sets of ImageNet's classes, of which the classifier has none: "
        f"{', '.join(foreign)}",
    ]


def _evaluate_others(
    run: Run,
    settings: EvaluationSettings,
    evaluated: _Evaluated,
    kept: KeptParts,
    before: Mapping[str, str],
    on_stop: Callable[[str], None],
) -> bool:
    """Evaluates the parts that no earlier start made; returns whether it came to the end.

    Args:
        run, settings, evaluated, kept: of this evaluation.
        before: when the others were made, by title.
        on_stop: called with a message if a signal stopped the run.
    """
    pretrained, parts = evaluated.pretrained, evaluated.parts
    classify = Classifier(pretrained, settings.reading, run.dtype, settings.seed, run.devices)
    waiting = [part for part in parts if part.title not in before]
    done = len(before)
    sets = len({part.set_name for part in parts})
    since = f" (the first on {min(before.values())})" if before else ""
    print(f"parts       {len(parts)}, of {sets} sets; {done} done before{since}", flush=True)
    if waiting and jax.process_index() == 0:
        run.remove_results()  # they would be of other parts
    with StopSignals("part") as signals, Progress(len(parts), done, unit="part") as display:
        for part in waiting:
            # Looked at before they are read.
            files = kept.state(part).digest if jax.process_index() == 0 else ""
            outputs = classify(part, display)
            if jax.process_index() == 0:
                kept.write(part, outputs, files)
            done += 1
            display.advance(done)
            valid = outputs["valid"]
            top1: list[str] = []
            if valid.any() and part.protocol != "cue_conflict":
                top1 = [f"top-1 {100 * outputs['top1'][valid].mean():.2f} %"]
            display.show(done, part.title, *top1, f"{valid.sum():,} images")
            if signals.stop_after(done) and done < len(parts):
                on_stop(stopped(signals.received, done, len(parts), unit="part"))
                return False
    return True


def _results(
    run: Run,
    settings: EvaluationSettings,
    evaluated: _Evaluated,
    by_set: Mapping[str, summary.Parts],
    before: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the contents of results.json."""
    pretrained, rule = evaluated.pretrained, evaluated.rule
    figures = summary.summarise(by_set, evaluated.classes, settings.seed)
    return {
        "job": "evaluate",
        "encoder": pretrained.encoder_origin,
        "encoder_seed": pretrained.encoder_seed,
        "classifier": pretrained.origin,
        "label": settings.label,
        **({"outputs": evaluated.outputs, "output_rule": rule} if rule else {}),
        **run.computation,
        "self_test": evaluated.checked,
        "sets": {name: found | evaluated.views[name] for name, found in figures.items()},
        "missing": evaluated.missing,
        "kept": _kept_by_set(evaluated.parts, before),
    }


def _unreadable(by_set: dict[str, summary.Parts]) -> dict[str, str]:
    """Takes away the sets without any image that could be read; says so by name.

    Raises:
        UsageError: there is no other set.
    """
    found = {}
    for name, parts in list(by_set.items()):
        if not any(outputs["valid"].any() for _, outputs in parts):
            images = sum(len(part.source) for part, _ in parts)
            found[name] = f"none of its {images:,} images in {parts[0][0].about} can be read"
            del by_set[name]
    if not by_set:
        listed = "; ".join(f"{name}: {why}" for name, why in found.items())
        raise UsageError(
            f"There is nothing to report: {listed}. Give image files that can be read with "
            "--config.sets.NAME.source=folder:PATH."
        )
    return found


def _classes(
    settings: EvaluationSettings, pretrained: Pretrained
) -> tuple[tuple[str, ...], str, int]:
    """Returns the classes of the first outputs, how they were found ('' if recorded), and C."""
    if pretrained.classifier is None:
        raise UsageError(
            f"{pretrained.origin} has no classifier to evaluate. Train one by the job linear "
            "(--config=linear), and give its workdir with --config.pretrained=DIR."
        )
    check_finite(pretrained.classifier, pretrained.origin)
    outputs = len(pretrained.classifier["bias"])
    named = settings.classes
    given = class_names(named) if named else ()
    if pretrained.classes:
        if given and tuple(sorted(resolved(given, pretrained.classes))) != pretrained.classes:
            raise UsageError(
                f"The classifier of {pretrained.origin} knows its {outputs} classes, and they are "
                f"not those of classes={named!r}.{advice(given)} Leave classes empty."
            )
        return pretrained.classes, "", outputs
    if not given:
        listed = classes_of_sets(settings.sets, settings.only, settings.tfds_dir)
    elif advice(given):
        raise UsageError(f"classes={named!r} cannot name the outputs.{advice(given)}")
    else:
        listed = Listed(tuple(sorted(by_themselves(given))), f"classes={named}", True)
    option = "--config.classes=FILE"
    naming = name_outputs(pretrained.classifier, listed, pretrained.origin, option)
    return naming.classes, naming.rule, outputs


def _write_tables(
    settings: EvaluationSettings,
    workdir: Path,
    evaluated: _Evaluated,
    by_set: dict[str, summary.Parts],
    results: dict,
) -> None:
    """Writes the results beside results.json: per class, per image, and as timm does."""
    pretrained, classes = evaluated.pretrained, evaluated.classes
    name = settings.label or pretrained.encoder_origin
    write_text(workdir / PER_CLASS, per_class.per_class(by_set, classes))
    for set_name, parts in by_set.items():
        if parts[0][0].protocol == "cue_conflict":
            text = per_class.decisions(*parts[0], classes, name)
            write_text(workdir / f"{set_name}.csv", text)
    leaves = jax.tree.leaves((pretrained.params, pretrained.classifier))
    parameters = sum(np.size(leaf) for leaf in leaves)
    for set_name, entry in results["sets"].items() if settings.csv else ():
        path = timm.file_of(user_path(settings.csv), set_name)
        resize = by_set[set_name][0][0].resize
        row = timm.row(name, entry, parameters, settings.reading.image_size, resize)
        if row is not None:
            write_text(path, timm.table(path, row))


def test_itself() -> None:
    """Runs the self-test of the evaluation on all devices, and reports it; see `self_test`."""
    print(f"self-test  passed: {self_test.run(mesh.data_mesh(None))} known figures", flush=True)


def _views(parts: Sequence[Part], settings: EvaluationSettings) -> dict[str, dict[str, Any]]:
    """Describes the views by set, see `view_of`."""
    first = {part.set_name: part for part in reversed(parts)}
    size = settings.reading.image_size
    order = dict.fromkeys(part.set_name for part in parts)
    return {name: view_of(first[name].source, first[name].resize, size) for name in order}


def _kept_by_set(parts: Sequence[Part], kept: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns, by set, how many parts earlier starts made, and when the first of them."""
    found: dict[str, list[str]] = {}
    for part in parts:
        if part.title in kept:
            found.setdefault(part.set_name, []).append(kept[part.title])
    return {name: {"parts": len(times), "since": min(times)} for name, times in found.items()}
