"""The robustness job: a trained probe on many test sets, the row of the paper's table."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.corruptions import corrupt, image_keys
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation import summary
from nsneg_jax.evaluation.passes import central_batches, one_late
from nsneg_jax.evaluation.sets import Part, plan
from nsneg_jax.files import write_json, write_npz
from nsneg_jax.input import labelled
from nsneg_jax.input.sources.source import class_names
from nsneg_jax.jobs.validation import claim_workdir, validate_evaluate
from nsneg_jax.methods.probe import frozen_features, ranks
from nsneg_jax.models.encoder import Encoder
from nsneg_jax.parallel import hosts, mesh
from nsneg_jax.pretrained import Pretrained, load_pretrained
from nsneg_jax.report.command import RESULTS
from nsneg_jax.training.checkpoint import StopSignals, stopped
from nsneg_jax.training.metrics import Progress


def evaluate(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> dict | None:
    """Evaluates the classifier of `config` on every set that is there.

    What each image got is kept in WORKDIR/parts as soon as a part (a set, or a corruption and
    severity) is finished; a run that was stopped goes on with the next part. Parts of another
    classifier or of other settings of their set are done again.

    Args:
        config: of the job; see configs/evaluate.py.
        workdir: for parts/, results.json and config.json.
        devices: to split the batch over, by default all there are.

    Returns:
        What results.json holds; None where a signal stopped the run.

    Raises:
        UsageError: the config, the classifier or a set do not fit, or, with `require_all`, a set
            is not there.
    """
    mesh.use_dtype(config.dtype)
    devices = mesh.data_mesh(devices)
    validate_evaluate(config, devices.size)
    pretrained = load_pretrained(config.pretrained, config.dtype, config.precision)
    classes = _classes(config, pretrained)
    parts, missing = plan(config, classes)
    claim_workdir(config, workdir, resuming=False)
    print(f"classifier  {pretrained.origin}: {len(classes):,} classes")
    for name, where in missing.items():
        print(f"missing     {name}: {where}")
    classify = Classifier(config, pretrained, devices)
    network = _fingerprint(pretrained, classes)
    keys = {part.title: _key(config, network, part) for part in parts}
    hosts.agree("classifier and files", keys, hosts.SAME_DATA)
    finished = hosts.of_first([_is_done(_path(workdir, p), keys[p.title]) for p in parts])
    waiting = [part for part, is_done in zip(parts, finished, strict=True) if not is_done]
    done = len(parts) - len(waiting)
    sets = len({part.set_name for part in parts})
    print(f"parts       {len(parts)} of {sets} sets, {done} done before", flush=True)
    with StopSignals() as signals, Progress(len(parts), done, unit="part") as display:
        for part in waiting:
            outputs = classify(part, display)
            if jax.process_index() == 0:
                key = np.array(keys[part.title])
                write_npz(_path(workdir, part), outputs | {"key": key})
            done += 1
            display.advance(done)
            valid = outputs["valid"]
            top1 = 100 * outputs["top1"][valid].mean() if valid.any() else float("nan")
            display.show(done, f"{part.title}  {valid.sum():,} images  top-1 {top1:.2f} %")
            if signals.stop_after(done):
                print(stopped(signals.received, done, len(parts), unit="part"))
                return None
    if jax.process_index() != 0:
        return hosts.of_first(None)
    outputs: dict[str, list] = {}
    for part in parts:
        with np.load(_path(workdir, part)) as kept:
            outputs.setdefault(part.set_name, []).append((part, dict(kept)))
    results = {
        "job": "evaluate",
        "encoder": pretrained.encoder_origin,
        "encoder_seed": pretrained.encoder_seed,
        "classifier": pretrained.origin,
        "label": config.label,
        **mesh.computation(devices, config.dtype, config.precision),
        "sets": summary.summarise(outputs, classes, config.seed),
        "missing": missing,
    }
    write_json(workdir / RESULTS, results)
    print(f"done: {workdir / RESULTS}; `nsneg report {workdir}` makes the table")
    return hosts.of_first(results)


def _classes(config: ConfigDict, pretrained: Pretrained) -> tuple[str, ...]:
    """Names of the classifier's classes, in the order of its logits."""
    if pretrained.classifier is None:
        raise UsageError(
            f"{pretrained.origin} has no classifier to evaluate. Train one with "
            "--config=configs/linear.py and give its workdir with --config.pretrained=DIR."
        )
    count = len(pretrained.classifier["bias"])
    given = tuple(sorted(class_names(config.classes))) if config.classes else None
    if pretrained.classes and given and given != pretrained.classes:
        raise UsageError(
            f"The classifier of {pretrained.origin} knows its {count} classes, and they are not "
            f"those of classes={config.classes!r}. Leave classes empty."
        )
    known = pretrained.classes or given
    if known is None or len(known) != count:
        raise UsageError(
            f"The classifier of {pretrained.origin} has {count} classes, "
            + (f"but {len(known)} are named" if known else "whose names it does not know")
            + ". Name them with --config.classes=FILE, a file with a name a line such as "
            "data/imagenet100.tsv; they are put in the order of the names."
        )
    return known


class Classifier:
    """What a probe's classifier says of the images of a part."""

    def __init__(self, config: ConfigDict, pretrained: Pretrained, devices: Mesh) -> None:
        self._config = config
        self._devices = devices
        backbone = {"params": pretrained.params, "stats": pretrained.stats}
        self._network = mesh.put((backbone, pretrained.classifier), mesh.replicated(devices))
        self._classify = compile_classifier(pretrained.encoder, config.dtype, devices)
        self._is_compiled = False

    def __call__(self, part: Part, display: Progress) -> dict[str, np.ndarray]:
        """Arrays [n] in the order of the part's source: 'top1', 'top5' bool, 'confidence' float32,
        'valid' bool (False for images that cannot be read), 'names'; of cue conflicts also
        'probabilities' [n, C]."""
        outputs = []
        if not self._is_compiled:
            display.compiling("the classifier")
        for output in one_late(self._of_batch(part, batch) for batch in self._batches(part)):
            outputs.append(output)
            if not self._is_compiled:
                display.first("batch")
                self._is_compiled = True
            elif display.is_due():
                images = min(len(outputs) * self._config.batch_size, len(part.source))
                display.note(f"{part.title}  {images:,} of {len(part.source):,} images")
        joined = {
            name: np.concatenate([output[name] for output in outputs])[: len(part.source)]
            for name in outputs[0]
        }
        return joined | {"names": np.array(part.names())}

    def _of_batch(self, part: Part, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        images = batch["image"]
        if part.corruption is not None:
            keys = image_keys(self._config.seed, batch["index"])
            corrupted = corrupt(images, *part.corruption, keys)
            images = jax.device_put(corrupted, mesh.split_batch(self._devices))
        found = self._classify(self._network, part.answers, images, batch["label"], batch["valid"])
        if part.protocol != "cue_conflict":
            del found["probabilities"]
        return found

    def _batches(self, part: Part) -> Iterator[dict[str, jax.Array]]:
        return central_batches(
            self._config.data,
            self._config.batch_size,
            part.source,
            self._devices,
            resize=part.resize,
            fields=(*labelled.FIELDS, "index"),
            skip_unreadable=True,
        )


def compile_classifier(encoder: Encoder, dtype: str, devices: Mesh) -> Callable:
    """The program that takes (backbone, classifier), the answers bool [C] that may be given, and
    images, labels and their validity, split over the devices; see `Classifier`."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    return jax.jit(
        partial(_classify, encoder, dtype),
        in_shardings=(whole, whole, split, split, split),
        out_shardings=whole,
    )


def _classify(
    encoder: Encoder,
    dtype: str,
    network: tuple,
    answers: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
) -> dict[str, jax.Array]:
    backbone, classifier = network
    features = frozen_features(encoder, dtype, backbone, images).astype(classifier["kernel"].dtype)
    product = jnp.dot(features, classifier["kernel"], precision=jax.lax.Precision.HIGHEST)
    logits = jnp.where(answers, product + classifier["bias"], -jnp.inf)
    probabilities = jax.nn.softmax(logits)
    rank = ranks(logits, labels)
    return {
        "top1": rank < 1,
        "top5": rank < 5,
        "confidence": probabilities.max(axis=-1).astype(jnp.float32),
        "probabilities": probabilities.astype(jnp.float32),
        "valid": valid,
    }


def _fingerprint(pretrained: Pretrained, classes: tuple[str, ...]) -> str:
    """A digest of every value of the network and of the names of its answers."""
    digest = hashlib.sha256("\n".join(classes).encode())
    for leaf in jax.tree.leaves((pretrained.params, pretrained.stats, pretrained.classifier)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _key(config: ConfigDict, network: str, part: Part) -> str:
    """What a part's outputs depend on, but for the contents of the files."""
    names = hashlib.sha256("\n".join(part.names()).encode()).hexdigest()
    settings = config.data.image_size, config.seed, config.dtype, config.precision
    return json.dumps([network, part.settings, names, *settings])


def _is_done(path: Path, key: str) -> bool:
    if not path.exists():
        return False
    with np.load(path) as kept:
        # an image that could not be read may have been replaced by now
        return str(kept["key"]) == key and bool(kept["valid"].all())


def _path(workdir: Path, part: Part) -> Path:
    return workdir / "parts" / f"{part.title.replace(' ', '-')}.npz"
