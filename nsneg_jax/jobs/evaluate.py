"""The robustness job: evaluates a trained probe on many test sets, one row of the paper's table."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nsneg_jax.corruptions import TABLE, definition, registry
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation import self_test, summary
from nsneg_jax.evaluation.classifier import ANSWERS, Classifier
from nsneg_jax.evaluation.outputs import Listed, check_finite, classes_of_sets, name_outputs
from nsneg_jax.evaluation.passes import described, view_of
from nsneg_jax.evaluation.protocols import per_class, timm
from nsneg_jax.evaluation.sets import Part, plan
from nsneg_jax.files import user_path, write_npz, write_text
from nsneg_jax.input.sources.identity import FileState, file_state, identity
from nsneg_jax.input.sources.lists.class_list import advice, by_themselves, class_names, resolved
from nsneg_jax.jobs.frozen import EvaluationSettings, evaluation_settings
from nsneg_jax.jobs.opening import open_frozen
from nsneg_jax.jobs.validation import validate_evaluate
from nsneg_jax.parallel import hosts, mesh
from nsneg_jax.pretrained import Pretrained, load_pretrained
from nsneg_jax.training.progress import Progress
from nsneg_jax.training.signals import StopSignals, stopped
from nsneg_jax.training.workdir import PARTS, PER_CLASS


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
    for name, where in missing.items():
        print(f"missing     {name}: {where}")
    views = _views(parts, settings)
    for name, view in views.items():
        print(f"views       {name}: {described(view)}")
    classify = Classifier(pretrained, settings.reading, run.dtype, settings.seed, run.devices)
    network = _fingerprint(pretrained, classes)
    keys = {part.title: _key(settings, network, part) for part in parts}
    hosts.agree("classifier and files", keys, hosts.SAME_DATA)
    data = _data(parts)
    states = _States()
    made = hosts.of_first(
        [_made(_path(workdir, p), keys[p.title], data[p.title], p, states) for p in parts]
        if jax.process_index() == 0
        else None
    )
    kept = {part.title: when for part, when in zip(parts, made, strict=True) if when}
    waiting = [part for part in parts if part.title not in kept]
    done = len(kept)
    sets = len({part.set_name for part in parts})
    since = f" (the first on {min(kept.values())})" if kept else ""
    print(f"parts       {len(parts)}, of {sets} sets; {done} done before{since}", flush=True)
    if waiting and jax.process_index() == 0:
        run.remove_results()  # they would be of other parts
    with StopSignals("part") as signals, Progress(len(parts), done, unit="part") as display:
        for part in waiting:
            about = {"key": keys[part.title], "data": data[part.title]}
            if jax.process_index() == 0:
                about["files"] = states.of(part).digest  # before they are read
            outputs = classify(part, display)
            if jax.process_index() == 0:
                about["made"] = _now()
                arrays = {name: np.array(text) for name, text in about.items()}
                write_npz(_path(workdir, part), outputs | arrays)
            done += 1
            display.advance(done)
            valid = outputs["valid"]
            top1 = ""
            if valid.any() and part.protocol != "cue_conflict":
                top1 = f"  top-1 {100 * outputs['top1'][valid].mean():.2f} %"
            display.show(done, f"{part.title}  {valid.sum():,} images{top1}")
            if signals.stop_after(done) and done < len(parts):
                on_stop(stopped(signals.received, done, len(parts), unit="part"))
                return None
    if jax.process_index() != 0:
        return hosts.of_first(None)
    by_set: dict[str, summary.Parts] = {}
    for part in parts:
        with np.load(_path(workdir, part)) as outputs:
            by_set.setdefault(part.set_name, []).append((part, dict(outputs)))
    missing |= _unreadable(by_set)
    results = {
        "job": "evaluate",
        "encoder": pretrained.encoder_origin,
        "encoder_seed": pretrained.encoder_seed,
        "classifier": pretrained.origin,
        "label": settings.label,
        **({"outputs": count, "output_rule": rule} if rule else {}),
        **run.computation,
        "self_test": checked,
        "sets": {
            name: figures | views[name]
            for name, figures in summary.summarise(by_set, classes, settings.seed).items()
        },
        "missing": missing,
        "kept": _kept_by_set(parts, kept),
    }
    path = run.write_results(results)
    _write_tables(settings, workdir, pretrained, classes, by_set, results)
    print(f"done: {path}; `nsneg report {workdir}` makes the table")
    return hosts.of_first(results)


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
    pretrained: Pretrained,
    classes: Sequence[str],
    by_set: dict[str, summary.Parts],
    results: dict,
) -> None:
    """Writes the results beside results.json: per class, per image, and as timm does."""
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


def _fingerprint(pretrained: Pretrained, classes: tuple[str, ...]) -> str:
    """Hashes every value of the network and the names of its classes."""
    digest = hashlib.sha256("\n".join(classes).encode("utf-8", "surrogateescape"))
    for leaf in jax.tree.leaves((pretrained.params, pretrained.stats, pretrained.classifier)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _key(settings: EvaluationSettings, network: str, part: Part) -> str:
    """Returns all that the outputs of a part depend on, except the contents of its files.

    This includes the location of the set as given.
    """
    listed = "\n".join(part.names()).encode("utf-8", "surrogateescape")
    names = hashlib.sha256(listed).hexdigest()
    size = settings.reading.image_size
    others = [size, settings.seed, settings.dtype, settings.precision]
    if part.corruption is not None and TABLE[part.corruption[0]].kind == registry.OWN:
        others.append(definition(*part.corruption, size))
    return json.dumps([network, part.settings, names, *others])


def _views(parts: Sequence[Part], settings: EvaluationSettings) -> dict[str, dict[str, Any]]:
    """Describes the views by set, see `view_of`."""
    first = {part.set_name: part for part in reversed(parts)}
    size = settings.reading.image_size
    order = dict.fromkeys(part.set_name for part in parts)
    return {name: view_of(first[name].source, first[name].resize, size) for name in order}


def _data(parts: Sequence[Part]) -> dict[str, str]:
    """Returns the identity of the images of each part by its title, as JSON."""
    # Generated corruptions share a source.
    sources = {id(part.source): part.source for part in parts}
    texts = {number: json.dumps(identity(source)) for number, source in sources.items()}
    return {part.title: texts[id(part.source)] for part in parts}


class _States:
    """States of the files of sources, each looked at once."""

    def __init__(self) -> None:
        self._found: dict[int, FileState] = {}

    def of(self, part: Part) -> FileState:
        number = id(part.source)
        if number not in self._found:
            self._found[number] = file_state(part.source)
        return self._found[number]


def _made(path: Path, key: str, data: str, part: Part, states: _States) -> str:
    """Returns when a part was made that holds as it is; '' if it is missing or outdated."""
    try:
        kept = dict(np.load(path))
        names = ANSWERS + ("probabilities",) * (part.protocol == "cue_conflict")
        whole = all(len(kept[name]) == len(part.source) for name in names)
        # Repeat a part with an unreadable image, which may have been replaced by now.
        good = whole and kept["valid"].all() and np.isfinite(kept["confidence"]).all()
        if not good or str(kept["key"]) != key:
            return ""
    except Exception:  # missing, or whatever damage raises: the part is made again
        return ""
    # Earlier versions kept no data, and no state of the files.
    if str(kept.get("data", data)) != data:
        return ""
    state, changed = states.of(part), path.stat().st_mtime_ns
    same = str(kept["files"]) == state.digest if "files" in kept else state.newest < changed
    when = str(kept["made"]) if "made" in kept else _time(changed / 1e9)
    return when if same else ""


def _kept_by_set(parts: Sequence[Part], kept: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns, by set, how many parts earlier starts made, and when the first of them."""
    found: dict[str, list[str]] = {}
    for part in parts:
        if part.title in kept:
            found.setdefault(part.set_name, []).append(kept[part.title])
    return {name: {"parts": len(times), "since": min(times)} for name, times in found.items()}


def _now() -> str:
    return _time(time.time())


def _time(seconds: float) -> str:
    """Formats seconds since 1970, e.g. '2026-11-28 09:30 UTC'."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _path(workdir: Path, part: Part) -> Path:
    return workdir / PARTS / f"{part.title.replace(' ', '-')}.npz"
