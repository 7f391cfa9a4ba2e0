"""A trained encoder that takes images as they are: embeddings and a probe's answers."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.input.images import Images, as_list, view_batches
from nsneg_jax.input.labelled import scaled_resize
from nsneg_jax.methods import probe
from nsneg_jax.methods.views import normalise
from nsneg_jax.models.encoder import HEAD, Encoder, Tree

BATCH_SIZE = 64


class Answers(NamedTuple):
    """What a classifier says of N images.

    Attributes:
        labels: int32 [N]. The likeliest class.
        names: of these classes; None where the checkpoint does not know them.
        probabilities: float32 [N, C], with a sum of 1 per image.
    """

    labels: np.ndarray
    names: tuple[str, ...] | None
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained encoder; `embed` and `classify` take images as they are, the rest is its parts.

    Attributes:
        encoder: its structure without the projection head; `encoder.features(params, stats,
            images)` gives [N, F] features.
        params: of the query encoder without its head, nested dicts of NumPy arrays; float64 for
            the dtype 'float64', else float32.
        stats: its running statistics, likewise.
        head: parameters of the projection head, likewise; None where there is none.
        model: the `model` section of the config it was trained with.
        dtype: of the computation.
        classifier: {'kernel': [F, C], 'bias': [C]} of a linear probe's checkpoint, else None.
        classes: names of the classifier's C classes where they are known.
        image_size: side of the views that the encoder is given, in pixels; None where it is
            neither recorded nor given.
        resize: shorter side before the central crop, in pixels of a view of 224 and scaled to
            others; 0 for the crop alone; None as of `image_size`.
        origin: workdir and step, for messages.
        encoder_origin: of a probe's checkpoint, those of the pre-training it was made from.
        encoder_seed: of that pre-training; None where it is not known.
    """

    encoder: Encoder = field(repr=False)
    params: Tree = field(repr=False)
    stats: Tree = field(repr=False)
    head: Tree | None = field(repr=False)
    model: dict[str, Any]
    dtype: str
    classifier: dict[str, np.ndarray] | None = field(repr=False)
    classes: tuple[str, ...] | None = field(repr=False)
    image_size: int | None
    resize: int | None
    origin: str
    encoder_origin: str
    encoder_seed: int | None

    def embed(
        self, images: Images, *, head: bool = False, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """Embeddings of images, seen as the kNN, linear and features jobs see them.

        Each image is resized, cropped at its centre and normalised; files are decoded in threads.
        The network computes on JAX's default device, in inference mode, in batches of one size: it
        is compiled once for each `batch_size`.

        Args:
            images: uint8, 0..255, RGB: an array [N, H, W, 3], or a list of arrays [H, W, 3], PIL
                images or paths of image files, of any sizes and mixed as you like. An EXIF
                orientation is ignored, as in training.
            head: give the projection head's output, the space that the contrastive loss compares
                in, instead of the features before it. It is as the encoder gives it, not of unit
                length.
            batch_size: images per pass. Fewer than that take the time of a whole batch: give 1 to
                embed single images.

        Returns:
            float32 [N, F], the pooled features, or [N, dim] with `head`, in the order of `images`.

        Raises:
            UsageError: the images are none, not uint8 or not RGB, a file cannot be read, the
                checkpoint has no projection head, or the size of the views is not known.
        """
        if head and self.head is None:
            raise UsageError(
                f"{self.origin} has no projection head. Give the checkpoint of a pre-training, or "
                "leave out head=True for the features before it."
            )
        if head:
            return self._over_batches(_projections, self._encoder_and_head, images, batch_size)
        return self._over_batches(_features, self.encoder, images, batch_size)

    def classify(self, images: Images, *, batch_size: int = BATCH_SIZE) -> Answers:
        """What a linear probe's classifier says of images; arguments and errors as of `embed`.

        Raises:
            UsageError: as of `embed`, or the checkpoint has no classifier.
        """
        if self.classifier is None:
            raise UsageError(
                f"{self.origin} has no classifier. Give the workdir of a linear probe, such as "
                "runs/linear."
            )
        probabilities = self._over_batches(_probabilities, self.encoder, images, batch_size)
        labels = probabilities.argmax(axis=1).astype(np.int32)
        names = None if self.classes is None else tuple(self.classes[label] for label in labels)
        return Answers(labels, names, probabilities)

    @cached_property
    def _encoder_and_head(self) -> Encoder:
        computed = {"dtype": self.dtype, "precision": self.encoder.precision}
        return models.structure(**(self.model | computed))[0]

    @cached_property
    def _network(self) -> dict[str, Tree | None]:
        names = ("params", "stats", "head", "classifier")
        with self._numbers():
            return jax.device_put({name: getattr(self, name) for name in names})

    def _numbers(self) -> contextlib.AbstractContextManager:
        return jax.enable_x64(True) if self.dtype == "float64" else contextlib.nullcontext()

    def _over_batches(
        self, program: Callable, encoder: Encoder, images: Images, batch_size: int
    ) -> np.ndarray:
        """What `program` gives for each image, float32."""
        listed = as_list(images)
        check_whole("batch_size", batch_size, 1)
        if self.image_size is None or self.resize is None:
            raise UsageError(
                f"{self.origin} does not say how large the images were that its encoder of stem "
                f"{self.model.get('stem')!r} was trained with. Say so with load_pretrained(path, "
                "image_size=PIXELS, resize=PIXELS); resize=0 crops without resizing."
            )
        short = scaled_resize(self.resize, self.image_size)
        outputs = []
        with self._numbers():
            for batch, count in view_batches(listed, batch_size, self.image_size, short):
                outputs.append((program(encoder, self.dtype, self._network, batch), count))
                if len(outputs) > 1:  # one late: the next images are read while these are computed
                    outputs[-2] = _fetched(*outputs[-2])
            outputs[-1] = _fetched(*outputs[-1])
        return np.concatenate(outputs)


def _fetched(output: jax.Array, count: int) -> np.ndarray:
    return np.asarray(output)[:count]


@partial(jax.jit, static_argnums=(0, 1))
def _features(encoder: Encoder, dtype: str, network: Tree, images: jax.Array) -> jax.Array:
    return probe.frozen_features(encoder, dtype, network, images).astype(jnp.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _projections(encoder: Encoder, dtype: str, network: Tree, images: jax.Array) -> jax.Array:
    params = {**network["params"], HEAD: network["head"]}
    floats = normalise(images.astype(jnp.dtype(dtype)) / 255)
    embeddings, _ = encoder(params, network["stats"], floats, groups=None)
    return embeddings.astype(jnp.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _probabilities(encoder: Encoder, dtype: str, network: Tree, images: jax.Array) -> jax.Array:
    features = probe.frozen_features(encoder, dtype, network, images)
    classifier = jax.tree.map(lambda leaf: leaf[None], network["classifier"])
    return jax.nn.softmax(probe.logits(classifier, features)[0]).astype(jnp.float32)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises UsageError unless `value` is a whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}, but must be a whole number from {least} on.")
