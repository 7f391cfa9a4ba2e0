"""Published results: Ge et al. (NeurIPS 2021), Table 1 and the README of the authors' repository.

Top-1 of a linear probe on ImageNet-100 and its shifted versions, in %, mean and standard deviation
of three runs, as printed by the authors. Nothing here was measured by this package.
"""

from typing import NamedTuple

# Names of the sets in results.json, in the paper's order.
PAPER_SETS = ("clean", "corruption", "sketch", "stylized", "rendition_100way")

RUNS = 3

# The authors published no code for four of the five columns.
PROTOCOL_NOTE = (
    "published: the authors' figures on ImageNet-100, not measured here. Their evaluation code for "
    "the shifted sets is not published, nor whether Rendition's arg-max is over all 100 classes."
)
REPEATED_CELL = "left out: the printed cell repeats the Sketch column."
MISPRINTED_QUEUE = "K is printed as 16394, which the authors' own code would refuse."


class PublishedRow(NamedTuple):
    """A row of the authors' tables.

    Attributes:
        recipe: 'A', the paper's Table 1, or 'B', "MoCo*" of the README; see docs/recipes.md.
        negatives: 'none', 'texture' or 'patch'.
        queue: K.
        alpha: alpha of the negatives; None without them.
        figures: (mean, standard deviation) in % per set of PAPER_SETS; None for a missing cell.
        note: note on the row.
    """

    recipe: str
    negatives: str
    queue: int
    alpha: int | None
    figures: tuple[tuple[float, float] | None, ...]
    note: str = ""

    @property
    def name(self) -> str:
        """Name in the table, e.g. 'published, recipe A: patch negatives, K 8192, alpha 2'."""
        negatives = "no negatives" if self.negatives == "none" else f"{self.negatives} negatives"
        alpha = "" if self.alpha is None else f", alpha {self.alpha}"
        return f"published, recipe {self.recipe}: {negatives}, K {self.queue}{alpha}"


# fmt: off
ROWS = (
    PublishedRow("A", "none", 16384, None,
                 ((77.88, 0.28), (43.08, 0.27), (28.24, 0.58), (16.20, 0.55), (32.92, 0.12))),
    PublishedRow("A", "texture", 16384, 2,
                 ((77.76, 0.17), (43.58, 0.33), (29.11, 0.39), (16.59, 0.17), (33.36, 0.15))),
    PublishedRow("A", "patch", 16384, 2,
                 ((79.35, 0.12), (45.13, 0.35), (31.76, 0.88), (17.37, 0.19), (34.78, 0.15))),
    PublishedRow("A", "patch", 16384, 3,
                 ((75.58, 0.52), (44.45, 0.15), (34.03, 0.58), (18.60, 0.26), (36.89, 0.11))),
    PublishedRow("A", "none", 8192, None,
                 ((77.73, 0.38), (43.22, 0.39), (28.45, 0.36), (16.83, 0.12), (33.19, 0.44))),
    PublishedRow("A", "patch", 8192, 2,
                 ((79.54, 0.32), (45.48, 0.20), (33.36, 0.45), (17.81, 0.32), (36.31, 0.37))),
    PublishedRow("B", "none", 65536, None,
                 ((80.00, 0.14), (45.15, 0.42), (30.38, 0.30), (16.68, 0.39), None)),
    PublishedRow("B", "patch", 65536, 2,
                 ((81.18, 0.09), (46.74, 0.32), (32.46, 0.55), (17.63, 0.14), (36.66, 0.18))),
    PublishedRow("B", "patch", 16384, 2,
                 ((81.49, 0.11), (47.48, 0.20), (34.20, 0.40), (17.95, 0.41), (38.45, 0.19)),
                 MISPRINTED_QUEUE),
)
# fmt: on
