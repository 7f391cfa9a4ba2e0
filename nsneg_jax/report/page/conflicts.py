"""Examples of cue conflicts: what an evaluation answered to some images."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CUES = ("shape", "texture", "neither")

_NEEDED = {"object_response", "category", "imagename"}


class Example(NamedTuple):
    """An image, JPEG or PNG, and the classes of its shape and of its texture."""

    picture: bytes
    shape: str
    texture: str


class Answer(NamedTuple):
    """A line of the table of decisions: an image, the class of its shape, and the answer."""

    name: str
    shape: str
    answer: str


def answers(path: Path) -> list[Answer]:
    """Reads the decisions that an evaluation has left; [] if there are none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError):
        return []
    if not rows or not rows[0].keys() >= _NEEDED:
        return []
    return [Answer(row["imagename"], row["category"], row["object_response"]) for row in rows]


def cue(answer: Answer, example: Example) -> str:
    """Returns which of `CUES` an answer follows."""
    if answer.answer == example.shape:
        return "shape"
    return "texture" if answer.answer == example.texture else "neither"


def some(found: Sequence[Answer], most: int) -> list[Answer]:
    """Returns at most `most` answers, spread evenly over the classes of the shape."""
    by_class = sorted(found, key=lambda answer: answer.shape)
    step = max(1, len(found) // most)
    return by_class[step // 2 :: step][:most]
