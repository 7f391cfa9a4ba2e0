"""Features of some images with small pictures of them: their neighbours, and a map of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.files import write_npz

SIDE = 96  # pixels of a picture, at most

_QUALITY = 85
_LOSSLESS = 64  # pixels; smaller pictures are PNGs
_LEAST_FOR_UMAP = 16  # images; fewer have no neighbourhoods
_SEED = 0


@dataclass(frozen=True)
class Gallery:
    """Images of one data set as an encoder sees them.

    Attributes:
        features: float32 [n, F].
        labels: int32 [n].
        classes: names of the classes.
        indices: int32 [n], places of the images in the data set.
        pictures: n files, JPEG or PNG; none if the images were not at hand.
        about: what the images are, such as 'folder:/data [val], 1,000 of 5,000 images'.
    """

    features: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    indices: np.ndarray
    pictures: tuple[bytes, ...]
    about: str

    def class_of(self, place: int) -> str:
        """Returns the name of an image's class; '' without classes."""
        label = int(self.labels[place])
        return self.classes[label] if label < len(self.classes) else ""


def spread(total: int, most: int) -> np.ndarray:
    """Returns at most `most` of the places 0 .. total - 1, spread evenly, int64."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(int))


def spread_over_classes(labels: np.ndarray, most: int) -> np.ndarray:
    """Returns the places of at most `most` images, spread evenly over each class, ascending."""
    by_class = np.argsort(labels, kind="stable")
    return np.sort(by_class[spread(len(labels), most)])


def encoded(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] as a picture of at most `SIDE` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if max(image.size) <= _LOSSLESS:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def save(gallery: Gallery, path: Path) -> None:
    """Writes a gallery to an npz file."""
    joined = np.frombuffer(b"".join(gallery.pictures), np.uint8)
    arrays = {
        "features": gallery.features,
        "labels": gallery.labels,
        "classes": np.array(gallery.classes, str),
        "indices": gallery.indices,
        "pictures": joined,
        "ends": np.cumsum([len(picture) for picture in gallery.pictures], dtype=np.int64),
        "about": np.array(gallery.about),
    }
    write_npz(path, arrays, compressed=False)


def load(path: Path) -> Gallery:
    """Reads a gallery that `save` has written.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        with np.load(path) as file:
            found = dict(file)
        ends = [0, *found["ends"].tolist()]
        joined = found["pictures"].tobytes()
        return Gallery(
            features=found["features"],
            labels=found["labels"],
            classes=tuple(found["classes"].tolist()),
            indices=found["indices"],
            pictures=tuple(joined[a:b] for a, b in pairwise(ends)),
            about=str(found["about"]),
        )
    except Exception as error:
        raise UsageError(f"{path} is damaged: {error}. Remove it to make it again.") from error


def neighbours(gallery: Gallery, queries: Sequence[int], count: int) -> list[list[int]]:
    """Returns the places of the nearest other images, by the cosine of their features.

    Args:
        gallery: the images.
        queries: places of the images to find neighbours of.
        count: neighbours per query.
    """
    features = _unit(gallery.features)
    similar = features[list(queries)] @ features.T
    similar[np.arange(len(queries)), list(queries)] = -np.inf
    return np.argsort(-similar, axis=1, kind="stable")[:, :count].tolist()


def chosen(gallery: Gallery, count: int) -> list[int]:
    """Returns places of `count` images to find neighbours of: of different classes if possible."""
    first: dict[int, int] = {}
    for place, label in enumerate(gallery.labels.tolist()):
        first.setdefault(label, place)
    places = [first[label] for label in sorted(first)]
    if len(places) < count:
        rest = spread(len(gallery.labels), 4 * count).tolist()
        places += [place for place in rest if place not in places]
    return [places[i] for i in spread(len(places), count)]


def agreement(gallery: Gallery) -> float | None:
    """Returns how many images have their nearest neighbour's class, in %; None for one class."""
    if len(set(gallery.labels.tolist())) < 2:
        return None
    everyone = range(len(gallery.labels))
    nearest = np.array(neighbours(gallery, everyone, 1))[:, 0]
    return 100 * float((gallery.labels[nearest] == gallery.labels).mean())


class Map(NamedTuple):
    """Places of images in a plane, float [n, 2], and how they were found."""

    places: np.ndarray
    method: str


def plane(gallery: Gallery) -> Map:
    """Maps features to a plane: by UMAP where the package umap-learn is installed, else by PCA."""
    features = _unit(gallery.features)
    if len(features) >= _LEAST_FOR_UMAP:
        try:
            from umap import UMAP
        except ImportError:
            pass
        else:
            reducer = UMAP(n_components=2, metric="cosine", random_state=_SEED, n_jobs=1)
            return Map(np.asarray(reducer.fit_transform(features), float), "UMAP (cosine)")
    centred = (features - features.mean(axis=0)).astype(float)
    variances, vectors = np.linalg.eigh(centred @ centred.T)  # ascending
    largest = np.maximum(variances[:-3:-1], 0)
    places = np.zeros((len(features), 2))
    places[:, : len(largest)] = vectors[:, :-3:-1] * np.sqrt(largest)
    part = 100 * float(largest.sum() / max(variances.sum(), 1e-30))
    return Map(places, f"PCA, first two components ({part:.0f} % of the variance)")


def _unit(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)
