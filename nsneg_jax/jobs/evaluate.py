"""The robustness job: evaluates a trained probe on many test sets, one row of the paper's table."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nsneg_jax.corruptions import TABLE, definition, registry
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation import summary
from nsneg_jax.evaluation.classifier import Classifier
from nsneg_jax.evaluation.passes import described, view_of
from nsneg_jax.evaluation.sets import Part, plan
from nsneg_jax.files import write_npz
from nsneg_jax.input.sources.identity import FileState, file_state, identity
from nsneg_jax.input.sources.source import class_names
from nsneg_jax.jobs.frozen import EvaluationSettings, evaluation_settings
from nsneg_jax.jobs.opening import open_frozen
from nsneg_jax.jobs.validation import validate_evaluate
from nsneg_jax.parallel import hosts
from nsneg_jax.pretrained import Pretrained, load_pretrained
from nsneg_jax.training.progress import Progress
from nsneg_jax.training.signals import StopSignals, stopped
from nsneg_jax.training.workdir import PARTS


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
        workdir: folder for parts/, results.json and config.json.
        devices: devices to split the batch over, by default all.
        on_stop: called with a message if a signal stopped the run before its end.

    Returns:
        The contents of results.json; None if a signal stopped the run.

    Raises:
        UsageError: the config, the classifier or a set does not fit, or, with `require_all`, a set
            is missing.
    """
    run, config = open_frozen(config, workdir, devices, validate_evaluate)
    settings = evaluation_settings(config)
    pretrained = load_pretrained(settings.pretrained, run.dtype, run.precision)
    classes = _classes(settings.classes, pretrained)
    parts, missing = plan(
        settings.sets,
        classes,
        only=settings.only,
        require_all=settings.require_all,
        image_size=settings.reading.image_size,
        tfds_dir=settings.tfds_dir,
    )
    run.claim()
    print(f"classifier  {pretrained.origin}: {len(classes):,} classes")
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
    print(f"parts       {len(parts)} of {sets} sets, {done} done before{since}", flush=True)
    if waiting and jax.process_index() == 0:
        run.remove_results()  # they would be of other parts
    with StopSignals() as signals, Progress(len(parts), done, unit="part") as display:
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
            top1 = 100 * outputs["top1"][valid].mean() if valid.any() else float("nan")
            display.show(done, f"{part.title}  {valid.sum():,} images  top-1 {top1:.2f} %")
            if signals.stop_after(done) and done < len(parts):
                on_stop(stopped(signals.received, done, len(parts), unit="part"))
                return None
    if jax.process_index() != 0:
        return hosts.of_first(None)
    by_set: dict[str, list[tuple[Part, summary.Outputs]]] = {}
    for part in parts:
        with np.load(_path(workdir, part)) as outputs:
            by_set.setdefault(part.set_name, []).append((part, dict(outputs)))
    results = {
        "job": "evaluate",
        "encoder": pretrained.encoder_origin,
        "encoder_seed": pretrained.encoder_seed,
        "classifier": pretrained.origin,
        "label": settings.label,
        **run.computation,
        "sets": {
            name: figures | views[name]
            for name, figures in summary.summarise(by_set, classes, settings.seed).items()
        },
        "missing": missing,
        "kept": _kept_by_set(parts, kept),
    }
    path = run.write_results(results)
    print(f"done: {path}; `nsneg report {workdir}` makes the table")
    return hosts.of_first(results)


def _classes(named: str, pretrained: Pretrained) -> tuple[str, ...]:
    """Returns the class names in the order of the logits; `named` is the config's `classes`."""
    if pretrained.classifier is None:
        raise UsageError(
            f"{pretrained.origin} has no classifier to evaluate. Train one with "
            "--config=configs/linear.py and give its workdir with --config.pretrained=DIR."
        )
    count = len(pretrained.classifier["bias"])
    given = tuple(sorted(class_names(named))) if named else None
    if pretrained.classes and given and given != pretrained.classes:
        raise UsageError(
            f"The classifier of {pretrained.origin} knows its {count} classes, and they are not "
            f"those of classes={named!r}. Leave classes empty."
        )
    known = pretrained.classes or given
    if known is None or len(known) != count:
        raise UsageError(
            f"The classifier of {pretrained.origin} has {count} classes, "
            + (f"but {len(known)} are named" if known else "whose names it does not know")
            + ". Name them with --config.classes=FILE, a file with one name per line, such as "
            "data/imagenet100.tsv; they are sorted by name."
        )
    return known


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
        kept = dict(np.load(path)) if path.exists() else {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        kept = {}  # what a power cut leaves
    # Repeat a part with an unreadable image, which may have been replaced by now.
    if not kept or not kept["valid"].all() or str(kept["key"]) != key:
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
