"""Shape or texture: which cue a classifier follows where the two disagree.

Images have the shape of one category and the texture of another (Geirhos et al., "ImageNet-trained
CNNs are biased towards texture", ICLR 2019). Only decisions for either of the two count.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.files import expand
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.protocol import Source

CATEGORIES_FILE = Path(__file__).parent / "protocols" / "geirhos16.tsv"
CATEGORIES = (
    *("airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat"),
    *("chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"),
)

# 'cat7-elephant1.png'; model-vs-human also reads '..._cat7-elephant1.png', with a trial's name.
_NAME = re.compile(r"(?:.*_)?([a-z]+)\d+-([a-z]+)\d+")


@dataclass(frozen=True)
class Decisions:
    """A classifier's decisions on cue conflicts.

    Attributes:
        shape, texture: number of images classified by their shape, and by their texture.
        images: number of images counted, including those with another decision.
        categories: names of the categories to decide between, sorted.
        restricted: whether the classifier lacks some classes of the categories.
    """

    shape: int
    texture: int
    images: int
    categories: tuple[str, ...]
    restricted: bool

    @property
    def shape_accuracy(self) -> float | None:
        """Fraction of all images counted that were classified by their shape; None without any."""
        return self.shape / self.images if self.images else None

    @property
    def texture_accuracy(self) -> float | None:
        """Fraction of all images counted that were classified by their texture."""
        return self.texture / self.images if self.images else None

    @property
    def shape_bias(self) -> float | None:
        """Fraction of shape decisions among shape and texture decisions; None without any."""
        either = self.shape + self.texture
        return self.shape / either if either else None


def decisions(
    probabilities: np.ndarray,
    classes: Sequence[str],
    shape: Sequence[str] | np.ndarray,
    texture: Sequence[str] | np.ndarray,
    categories: Mapping[str, str],
) -> Decisions:
    """Counts shape and texture decisions by the rules of the original and of model-vs-human.

    For the decisions see `decide`. Images with shape and texture of the same category are no
    conflict and are left out. If the classifier has no class of some category, it decides between
    the others, and images with the shape or texture of that category are left out too.

    Args:
        probabilities: [N, C], softmax over all classes of the classifier.
        classes: names of its C classes, ImageNet's wnids for the released images.
        shape, texture: categories per image, see `cues_of`.
        categories: category by class, see `read_categories`; {name: name} for a data set whose
            classes are the categories.

    Raises:
        UsageError: the classifier has classes of fewer than two categories.
    """
    if len(probabilities) != len(shape) or len(shape) != len(texture):
        raise ValueError(
            f"probabilities of shape {probabilities.shape} with {len(classes)} classes, "
            f"{len(shape)} shapes and {len(texture)} textures"
        )
    decided, known = decide(probabilities, classes, categories)
    counted = conflicts(shape, texture, known)
    return Decisions(
        shape=int((counted & (decided == np.array(shape, str))).sum()),
        texture=int((counted & (decided == np.array(texture, str))).sum()),
        images=int(counted.sum()),
        categories=known,
        restricted=not set(categories) <= set(classes),
    )


def decide(
    probabilities: np.ndarray, classes: Sequence[str], categories: Mapping[str, str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the decision per image, str [N], and the categories to decide between, sorted.

    The decision is the category whose classes have the largest mean probability, the first if
    several are equal; '' where a probability is NaN. For the arguments and errors see `decisions`.
    """
    if probabilities.shape[1:] != (len(classes),):
        raise ValueError(f"probabilities of shape {probabilities.shape}, {len(classes)} classes")
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        if name in categories:
            indices.setdefault(categories[name], []).append(index)
    known = tuple(sorted(indices))
    if len(known) < 2:
        raise UsageError(
            f"The classifier has classes of {len(known)} of the {len(set(categories.values()))} "
            f"categories of the cue-conflict images (its classes: {', '.join(classes[:3])}, ...), "
            "but needs at least two to decide between. Evaluate one whose class folders have "
            "ImageNet's wnids as names, or leave this set out."
        )
    means = np.stack([probabilities[:, indices[name]].mean(axis=1) for name in known], axis=1)
    decided = np.array(known)[means.argmax(axis=1)]
    return np.where(np.isnan(means).any(axis=1), "", decided), known


def conflicts(
    shape: Sequence[str] | np.ndarray, texture: Sequence[str] | np.ndarray, known: Sequence[str]
) -> np.ndarray:
    """Returns which images count, bool [N]: two different cues, both of a `known` category."""
    shapes, textures = np.array(shape, str), np.array(texture, str)
    return (shapes != textures) & np.isin(shapes, known) & np.isin(textures, known)


def cues_of(path: str) -> tuple[str, str]:
    """Reads the categories of shape and texture from the name of a released image.

    Args:
        path: path that ends in 'SHAPE12-TEXTURE3.png', e.g. 'cat/cat7-elephant1.png'.

    Raises:
        UsageError: the name has another form.
    """
    match = _NAME.fullmatch(PurePath(path).stem)
    if match is None or not set(match.groups()) <= set(CATEGORIES):
        raise UsageError(
            f"The cue-conflict image {path} is not named SHAPE12-TEXTURE3.png, as in "
            f"cat7-elephant1.png, with two of {', '.join(CATEGORIES)}. Give the folder of the "
            "released images, and remove all other files from it."
        )
    return match.group(1), match.group(2)


def read_categories(path: Path = CATEGORIES_FILE) -> dict[str, str]:
    """Reads the category by ImageNet wnid; 207 of the 1000 have one.

    Args:
        path: file with a wnid and a category per line; lines that begin with '#' are skipped.
    """
    lines = path.read_text().splitlines()
    return dict(line.split() for line in lines if line.strip() and not line.startswith("#"))


class CueFolder(Folder):
    """The released cue-conflict images: no labels, but `cues` (shape, texture) by file name."""

    def __init__(self, root: str, split: str) -> None:
        super().__init__(root, split)
        self.labels = np.zeros(len(self), np.int32)
        self.cues = tuple(zip(*(cues_of(self.path(i)) for i in range(len(self))), strict=True))


def open_cues(name: str, source: str, split: str, classes: Sequence[str]) -> CueFolder:
    """Opens the released images of a set for a classifier.

    Args:
        name: name of the set, for messages.
        source, split: see `evaluation.sets.EvaluationSet`.
        classes: classes of the classifier.

    Raises:
        UsageError: the source is no folder, or the classifier cannot decide between its cues.
    """
    scheme, _, root = expand(source).partition(":")
    if scheme != "folder":
        raise UsageError(
            f"The set {name} is {source}, but cue conflicts are read from folders, because file "
            f"names hold the cues. Set --config.sets.{name}.source=folder:PATH."
        )
    if len({category for wnid, category in read_categories().items() if wnid in classes}) < 2:
        raise UsageError(
            f"The classifier's classes belong to fewer than two of the categories of {name}, so it "
            f"cannot decide between them. Leave the set out with --config.only."
        )
    return CueFolder(root, split)


def named_cues(source: Any, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the names of shape and texture per image, str [n] each.

    Args:
        source: a `CueFolder`, or built-in images whose textures are those of `classes`.
        classes: names of the classes.

    Raises:
        ValueError: its images have no texture apart from their class.
    """
    if hasattr(source, "cues"):
        shape, texture = (np.array(cue) for cue in source.cues)
        return shape, texture
    if hasattr(source, "texture_labels"):
        named = np.array(classes)
        return named[source.labels], named[source.texture_labels]
    raise ValueError(f"The images of {source.name} have no texture apart from their class.")


def check_textures(name: str, source: Source) -> None:
    """Raises UsageError if the built-in images of a set have no texture apart from their class."""
    if getattr(source, "texture_labels", None) is None:
        raise UsageError(
            f"The set {name}, {source.name}, has no textures apart from the classes, so protocol "
            f"'cue_conflict' has nothing to decide. Set --config.sets.{name}.source="
            f"shapes/conflict:SIZE, or --config.sets.{name}.protocol=top1."
        )
