"""ReaL: ImageNet's validation images with all labels that are right for them.

Beyer et al., "Are we done with ImageNet?", 2020. An answer is right if it is among an image's
labels; images without a label are left out.
"""

import json
import re
from collections.abc import Sequence

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.protocols.accepted import Accepted, accepted_of
from nsneg_jax.evaluation.protocols.imagenet import wnids
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.derived import Derived
from nsneg_jax.input.sources.protocol import FileSource

WHERE = "real.json of github.com/google-research/reassessed-imagenet"

_NUMBER = re.compile(r"ILSVRC2012_val_(\d+)(?:\.\w+)?$")


def read_real(path: str) -> list[list[int]]:
    """Reads the labels per validation image, indices in ImageNet-1K, in the order of its number.

    Args:
        path: real.json, local or in a store.

    Raises:
        UsageError: the file is missing, or is none of these labels.
    """
    try:
        found = json.loads(storage.read_bytes(path))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The ReaL labels {path} cannot be read: {error}. Get {WHERE}, and give its path with "
            "--config.sets.real.labels=FILE."
        ) from error
    whole = isinstance(found, list) and all(
        isinstance(labels, list) and all(type(i) is int and 0 <= i < len(wnids()) for i in labels)
        for labels in found
    )
    if not whole or not found:
        raise UsageError(
            f"{path} must be a list with a list of class indices, 0 to {len(wnids()) - 1}, per "
            f"validation image of ImageNet, but is not. Get {WHERE}."
        )
    return found


def with_real_labels(
    source: FileSource, path: str, classes: Sequence[str]
) -> tuple[Derived, Accepted]:
    """Returns the images that have a label among the classifier's classes, and these labels.

    Args:
        source: validation images of ImageNet under their released names, such as
            ILSVRC2012_val_00000293.JPEG.
        path: real.json.
        classes: wnids of the classifier's classes.

    Raises:
        UsageError: the file cannot be used, an image has another name, or none has a label.
    """
    real = read_real(path)
    ours = {wnid: index for index, wnid in enumerate(classes)}
    kept, right = [], []
    for image in range(len(source)):
        found = _NUMBER.search(source.path(image))
        if not found or not 1 <= int(found[1]) <= len(real):
            raise UsageError(
                f"The image {source.path(image)} of {source.name} is none of the {len(real):,} "
                f"that {path} labels: those are named ILSVRC2012_val_00000001.JPEG and so on. Give "
                "ImageNet's validation images under their released names."
            )
        labels = frozenset(
            ours[wnids()[label]] for label in real[int(found[1]) - 1] if wnids()[label] in ours
        )
        if labels:
            kept.append(image)
            right.append(labels)
    if not kept:
        raise UsageError(
            f"No image of {source.name} has a ReaL label among the classifier's {len(classes)} "
            f"classes ({', '.join(classes[:3])}, ...). Evaluate a classifier of ImageNet's wnids."
        )
    return Derived(source, kept), accepted_of(right, len(classes))
