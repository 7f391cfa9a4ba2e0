"""A trained encoder for raw images: embeddings, and the answers of a probe."""

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
    """A classifier's answers for N images.

    Attributes:
        labels: int32 [N]. The likeliest class.
        names: names of these classes; None if the checkpoint does not record them.
        probabilities: float32 [N, C], with a sum of 1 per image.
    """

    labels: np.ndarray
    names: tuple[str, ...] | None
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Pretrained:
    """A trained encoder; `embed` and `classify` take raw images.

    Attributes:
        encoder: structure without the projection head; `encoder.features(params, stats, images)`
            returns features [N, F].
        params: parameters of the query encoder without its head, nested dicts of NumPy arrays;
            float64 if `dtype` is 'float64', else float32.
        stats: running statistics, like `params`.
        head: parameters of the projection head, like `params`; None if there is none.
        head_stats: running statistics of the projection head; {} if it has no batch norm.
        model: `model` section of the config it was trained with.
        dtype: dtype of the computation.
        classifier: {'kernel': [F, C], 'bias': [C]} of a linear probe's checkpoint, else None.
        classes: names of the classifier's C classes, or None if unknown.
        image_size: side in pixels of the views that the encoder takes; None if it is neither
            recorded nor given.
        resize: shorter side before the central crop, in pixels for views of 224, scaled for others;
            0 crops without resizing; None like `image_size`.
        origin: workdir and step, for messages.
        encoder_origin: for a probe's checkpoint, workdir and step of its pre-training.
        encoder_seed: seed of the pre-training; None if unknown.
    """

    encoder: Encoder = field(repr=False)
    params: Tree = field(repr=False)
    stats: Tree = field(repr=False)
    head: Tree | None = field(default=None, repr=False)
    head_stats: Tree = field(default_factory=dict, repr=False)
    model: dict[str, Any]
    dtype: str
    classifier: dict[str, np.ndarray] | None = field(default=None, repr=False)
    classes: tuple[str, ...] | None = field(default=None, repr=False)
    image_size: int | None = None
    resize: int | None = None
    origin: str
    encoder_origin: str
    encoder_seed: int | None = None

    def embed(
        self, images: Images, *, head: bool = False, batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """Embeds images as the kNN, linear and features jobs do.

        Each image is resized, cropped at its centre and normalised; threads decode files. The
        network runs on JAX's default device in inference mode, in batches of equal size, and is
        compiled once per `batch_size`.

        Args:
            images: uint8, 0..255, RGB: an array [N, H, W, 3], or a list of arrays [H, W, 3], PIL
                images or paths of image files, in any mix and any sizes. As in training, an EXIF
                orientation is ignored.
            head: whether to return the output of the projection head, in which the contrastive loss
                compares, instead of the features before it. It is not scaled to unit length.
            batch_size: images per pass. A smaller number takes the time of a whole batch, so give 1
                to embed single images.

        Returns:
            float32 [N, F], the pooled features, or [N, dim] with `head`, in the order of `images`.

        Raises:
            UsageError: there are no images, they are not uint8 or not RGB, a file cannot be read,
                the checkpoint has no projection head, or the size of the views is unknown.
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
        """Classifies images with a linear probe's classifier; takes arguments like `embed`.

        Raises:
            UsageError: see `embed`, or the checkpoint has no classifier.
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
        names = ("params", "stats", "head", "head_stats", "classifier")
        with self._numbers():
            return jax.device_put({name: getattr(self, name) for name in names})

    def _numbers(self) -> contextlib.AbstractContextManager:
        return jax.enable_x64(True) if self.dtype == "float64" else contextlib.nullcontext()

    def _over_batches(
        self, program: Callable, encoder: Encoder, images: Images, batch_size: int
    ) -> np.ndarray:
        """Runs `program` on each image; returns its outputs in float32."""
        listed = as_list(images)
        check_whole("batch_size", batch_size, 1)
        if self.image_size is None or self.resize is None:
            raise UsageError(
                f"{self.origin} does not record the size of the images that its encoder of stem "
                f"{self.model.get('stem')!r} was trained on. Give it with load_pretrained(path, "
                "image_size=PIXELS, resize=PIXELS); resize=0 crops without resizing."
            )
        short = scaled_resize(self.resize, self.image_size)
        outputs: list[np.ndarray] = []
        waiting: tuple[jax.Array, int] | None = None
        with self._numbers():
            for batch, count in view_batches(listed, batch_size, self.image_size, short):
                computing = program(encoder, self.dtype, self._network, batch), count
                if waiting is not None:  # one late, to read the next images meanwhile
                    outputs.append(_fetched(*waiting))
                waiting = computing
            if waiting is not None:
                outputs.append(_fetched(*waiting))
        return np.concatenate(outputs)


def _fetched(output: jax.Array, count: int) -> np.ndarray:
    return np.asarray(output)[:count]


@partial(jax.jit, static_argnums=(0, 1))
def _features(encoder: Encoder, dtype: str, network: Tree, images: jax.Array) -> jax.Array:
    return probe.frozen_features(encoder, dtype, network, images).astype(jnp.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _projections(encoder: Encoder, dtype: str, network: Tree, images: jax.Array) -> jax.Array:
    params = {**network["params"], HEAD: network["head"]}
    stats = network["stats"] | ({HEAD: network["head_stats"]} if network["head_stats"] else {})
    floats = normalise(images.astype(jnp.dtype(dtype)) / 255)
    embeddings, _ = encoder(params, stats, floats, groups=None)
    return embeddings.astype(jnp.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _probabilities(encoder: Encoder, dtype: str, network: Tree, images: jax.Array) -> jax.Array:
    features = probe.frozen_features(encoder, dtype, network, images)
    classifier = jax.tree.map(lambda leaf: leaf[None], network["classifier"])
    return jax.nn.softmax(probe.logits(classifier, features)[0]).astype(jnp.float32)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises UsageError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}, but must be a whole number, at least {least}.")
