"""Images for which several of the classifier's classes are right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Accepted(NamedTuple):
    """The classes that are right for each image of a source.

    Attributes:
        table: bool [K, C], the different sets of right classes.
        rows: int32 [n], the row of `table` that each image has.
    """

    table: np.ndarray
    rows: np.ndarray


def accepted_of(right: Sequence[frozenset[int]], classes: int) -> Accepted:
    """Returns the table of the right classes.

    Args:
        right: per image, indices of the classes that are right, one or more.
        classes: number of the classifier's classes.
    """
    numbers: dict[frozenset[int], int] = {}
    rows = np.array([numbers.setdefault(each, len(numbers)) for each in right], np.int32)
    table = np.zeros((len(numbers), classes), bool)
    for each, number in numbers.items():
        table[number, list(each)] = True
    return Accepted(table, rows)
