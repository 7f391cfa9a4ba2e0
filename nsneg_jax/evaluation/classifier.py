"""Classifies images with a probe's classifier: right or wrong, and how confident."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nsneg_jax.corruptions import corrupt, image_keys
from nsneg_jax.evaluation.passes import Reading, central_batches, one_late
from nsneg_jax.evaluation.protocols.finite import check_finite
from nsneg_jax.evaluation.sets import Accepted, Part
from nsneg_jax.input import labelled
from nsneg_jax.methods.probe import UNRANKED, frozen_features, ranks
from nsneg_jax.models.encoder import Encoder
from nsneg_jax.parallel import mesh
from nsneg_jax.pretrained import Pretrained
from nsneg_jax.training.progress import Progress

ANSWERS = ("top1", "top5", "confidence", "valid")  # arrays [n] of every part


class Classifier:
    """Classifies the images of a part with a probe's classifier, in a program compiled once.

    Args:
        pretrained: a probe's checkpoint, with its classifier.
        reading: how to read images; each part replaces its `resize`.
        dtype: dtype of the encoder's computation.
        seed: seed of generated corruptions.
        devices: devices to split the batch over.
    """

    def __init__(
        self, pretrained: Pretrained, reading: Reading, dtype: str, seed: int, devices: Mesh
    ) -> None:
        self._reading = reading
        self._seed = seed
        self._devices = devices
        backbone = {"params": pretrained.params, "stats": pretrained.stats}
        self._network = mesh.put((backbone, pretrained.classifier), mesh.replicated(devices))
        self._classify = compile_classifier(pretrained.encoder, dtype, devices)
        split = mesh.split_batch(devices)
        self._one_hot = jax.jit(_one_hot, static_argnums=1, out_shardings=split)
        self._rows = jax.jit(_rows, out_shardings=split)
        self._is_compiled = False

    def __call__(self, part: Part, display: Progress) -> dict[str, np.ndarray]:
        """Classifies all images of a part.

        Returns:
            Arrays [n] in the order of the part's source: 'top1' and 'top5' bool, 'confidence'
            float32, 'valid' bool (False for unreadable images), 'names'; for cue conflicts also
            'probabilities' [n, C].

        Raises:
            RunError: features or logits of an image are not finite.
        """
        outputs = []
        accepted = part.accepted and mesh.put(part.accepted, mesh.replicated(self._devices))
        if not self._is_compiled:
            display.compiling("the classifier")
        for output in one_late(
            self._of_batch(part, accepted, batch) for batch in self._batches(part)
        ):
            outputs.append(output)
            if not self._is_compiled:
                display.first("batch")
                self._is_compiled = True
            elif display.is_due():
                images = min(len(outputs) * self._reading.batch_size, len(part.source))
                display.note(f"{part.title}  {images:,} of {len(part.source):,} images")
        joined = {
            name: np.concatenate([output[name] for output in outputs])[: len(part.source)]
            for name in outputs[0]
        }
        for stage in ("features", "logits"):
            check_finite(stage, joined.pop(f"finite_{stage}") | ~joined["valid"], part.title)
        return joined | {"names": np.array(part.names())}

    def _of_batch(
        self, part: Part, accepted: Accepted | None, batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        images = batch["image"]
        if part.corruption is not None:
            keys = image_keys(self._seed, batch["index"])
            corrupted = corrupt(images, *part.corruption, keys)
            images = jax.device_put(corrupted, mesh.split_batch(self._devices))
        if accepted is None:
            right = self._one_hot(batch["label"], len(part.answers))
        else:
            right = self._rows(accepted.table, accepted.rows, batch["index"])
        found = self._classify(self._network, part.answers, images, right, batch["valid"])
        if part.protocol != "cue_conflict":
            del found["probabilities"]
        return found

    def _batches(self, part: Part) -> Iterator[dict[str, jax.Array]]:
        return central_batches(
            replace(self._reading, resize=part.resize),
            part.source,
            self._devices,
            fields=(*labelled.FIELDS, "index"),
        )


def compile_classifier(encoder: Encoder, dtype: str, devices: Mesh) -> jax.stages.Wrapped:
    """Compiles the program of `Classifier`.

    It takes (backbone, classifier), the allowed answers bool [C], and images, the classes that are
    right for each, bool [N, C], and validity, bool [N], split over the devices.
    """
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    return jax.jit(
        partial(_classify, encoder, dtype),
        in_shardings=(whole, whole, split, split, split),
        out_shardings=whole,
    )


def _one_hot(labels: jax.Array, classes: int) -> jax.Array:
    return labels[:, None] == jnp.arange(classes)


def _rows(table: jax.Array, rows: jax.Array, indices: jax.Array) -> jax.Array:
    return table[rows[indices]]


def _classify(
    encoder: Encoder,
    dtype: str,
    network: tuple,
    answers: jax.Array,
    images: jax.Array,
    accepted: jax.Array,
    valid: jax.Array,
) -> dict[str, jax.Array]:
    backbone, classifier = network
    features = frozen_features(encoder, dtype, backbone, images).astype(classifier["kernel"].dtype)
    product = jnp.dot(features, classifier["kernel"], precision=jax.lax.Precision.HIGHEST)
    outputs = product + classifier["bias"]
    logits = jnp.where(answers, outputs, -jnp.inf)
    probabilities = jax.nn.softmax(logits)
    rank = best_ranks(logits, accepted)
    return {
        "top1": rank < 1,
        "top5": rank < 5,
        "confidence": probabilities.max(axis=-1).astype(jnp.float32),
        "probabilities": probabilities.astype(jnp.float32),
        "finite_features": jnp.isfinite(features).all(axis=-1),
        "finite_logits": jnp.isfinite(outputs).all(axis=-1),
        "valid": valid,
    }


def best_ranks(outputs: jax.Array, accepted: jax.Array) -> jax.Array:
    """Counts the classes ranked above the best of the classes that are right, int32 [N].

    Args:
        outputs: logits [N, C]; -inf for a class that is not allowed as an answer.
        accepted: bool [N, C], the classes that are right for each image.

    Returns:
        Ranks as from `ranks`; `UNRANKED` where no right class is allowed.
    """
    own = jnp.where(accepted, outputs, -jnp.inf)
    rank = ranks(outputs, own.argmax(axis=-1))
    return jnp.where(jnp.isfinite(own.max(axis=-1)), rank, UNRANKED)
