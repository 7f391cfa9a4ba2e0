"""Works out which outputs of a classifier are which classes, where its checkpoint does not say.

The original's linear evaluation gives every network torchvision's head of 1000 outputs. Of a probe
of ImageNet-100, outputs 0 to 99 are its classes in order of name, and no image ever had one of the
others as its label. SGD without weight decay then only ever pushes those down.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.protocols.imagenet import wnids
from nsneg_jax.evaluation.sets import EvaluationSet
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.source import is_files, open_files, open_source

_TORCHVISION = 1000  # outputs of torchvision's networks
_LEAST = 50  # outputs whose numbers say something together
_EDGE = 5
_PURE, _SOME, _LONGER = 0.99, 0.05, 2.0
_SMALL = 16  # pixels; only the names are read

# installed, and in a checkout
_IMAGENET_100 = tuple(
    root / "imagenet100.tsv"
    for root in (Path(__file__).parents[1] / "prepare", Path(__file__).parents[2] / "data")
)

Classifier = Mapping[str, np.ndarray]


class Naming(NamedTuple):
    """The classes of a classifier's first outputs.

    Attributes:
        classes: names, in the order of the outputs; at most as many as there are outputs.
        rule: how they were found, as a sentence for the job's output.
    """

    classes: tuple[str, ...]
    rule: str


class Listed(NamedTuple):
    """The classes that name a classifier's outputs, if they fit.

    Attributes:
        classes: names, sorted.
        where: what lists them, such as 'folder:/data/imagenet100 [val]'.
        chosen: whether the user gave them for this classifier.
    """

    classes: tuple[str, ...]
    where: str
    chosen: bool


def name_outputs(classifier: Classifier, listed: Listed | None, origin: str, option: str) -> Naming:
    """Returns the classes of the outputs of a classifier whose checkpoint names none.

    Args:
        classifier: 'kernel' [F, C] and 'bias' [C].
        listed: the classes of the test data, or those that the user gave; None if unknown.
        origin: name of the classifier, for messages.
        option: how the user gives the classes, such as '--config.classes=FILE'.

    Raises:
        UsageError: no rule says which outputs are which, or the classes given contradict the
            classifier.
    """
    outputs = len(classifier["bias"])
    which = f"The classifier of {origin} has {outputs:,} outputs"
    mend = (
        f"Give the classes that it was trained on with {option}, such as data/imagenet100.tsv; "
        "sorted by name, they are its first outputs."
    )
    if listed is None:
        raise UsageError(f"{which}, whose names it does not know. {mend}")
    named = len(listed.classes)
    count = f"{named:,} {'classes' if named != 1 else 'class'}"
    if named > outputs:
        raise UsageError(f"{which}, but {listed.where} has {count}. {mend}")
    half_unused = _are_in_use(classifier, 0, outputs // 2, outputs // 2)
    if named == outputs:
        if half_unused:
            raise UsageError(
                f"{which}, and {listed.where} has as many classes, but no image of its training "
                f"seems to have had a class of the outputs from {outputs // 2} on. {mend}"
            )
        return Naming(listed.classes, f"its outputs are the classes of {listed.where}, by name")
    hundred = _imagenet_100()
    if set(listed.classes) < set(hundred) and _are_the_last(classifier, len(hundred)):
        return Naming(
            hundred,
            f"the first {len(hundred)} of {outputs:,} outputs are the classes of ImageNet-100, by "
            f"name: {listed.where} has {count} of them, and training used no other output",
        )
    first = f"the first {named:,} of {outputs:,} outputs are the classes of {listed.where}, by name"
    if _are_the_last(classifier, named):
        return Naming(listed.classes, f"{first}; training used no other output")
    if listed.chosen and outputs == _TORCHVISION:
        return Naming(listed.classes, f"{first}, as given, although others seem to be in use")
    known = tuple(sorted(wnids()))
    if outputs == _TORCHVISION and not half_unused and set(listed.classes) <= set(known):
        return Naming(
            known,
            f"its {outputs:,} outputs are the classes of ImageNet-1K, by name: more than the "
            f"{named:,} of {listed.where} are in use",
        )
    raise UsageError(
        f"{which}, whose names it does not know. {listed.where} has {count}, but nothing shows "
        f"that the first {named:,} outputs are these. {mend}"
    )


def classes_of_sets(
    sets: Mapping[str, EvaluationSet], only: Sequence[str], tfds_dir: str
) -> Listed | None:
    """Returns the classes of the clean test set; without one, those that all other sets share.

    Args:
        sets, only, tfds_dir: see `sets.plan`.
    """
    found = {}
    for name in dict.fromkeys(["clean", *(only or sets)]):
        settings = sets.get(name)
        if settings is None or settings.protocol != "top1" or settings.names != "class":
            continue
        try:
            source = (
                open_files(
                    settings.source, settings.split, tfds_dir=tfds_dir, labels=settings.labels
                )
                if is_files(settings.source)
                else open_source(settings.source, settings.split, image_size=_SMALL)
            )
        except UsageError:  # the plan says which sets are missing, and why
            continue
        if len(source.classes) > 1:
            found[name] = Listed(tuple(source.classes), source.name, False)
        if name == "clean" and found:
            break
    lists = {listed.classes for listed in found.values()}
    return next(iter(found.values())) if len(lists) == 1 else None


def check_finite(classifier: Classifier, origin: str) -> None:
    """Raises UsageError if a classifier has a NaN or an infinity."""
    for name, array in classifier.items():
        if not np.isfinite(array).all():
            raise UsageError(
                f"The {name} of the classifier of {origin} has values that are NaN or infinite, so "
                "it cannot classify. Train it again, with lower learning rates."
            )


def _are_the_last(classifier: Classifier, named: int) -> bool:
    """Returns whether training used outputs just before number `named`, and none from there on."""
    return _are_in_use(classifier, max(0, named - max(_EDGE, named // 10)), named, named)


def _are_in_use(classifier: Classifier, start: int, stop: int, rest: int) -> bool:
    """Returns whether outputs `start` to `stop` were labels in training and those from `rest` not.

    Biases begin at 0 in the original. That of an output which is no image's label falls in every
    step, and its weights stay short beside those of labels.
    """
    bias = np.asarray(classifier["bias"])
    if len(bias) - rest < _LEAST:
        return False
    fallen = (bias[rest:] < 0).mean() >= _PURE and (bias[start:stop] >= 0).mean() >= _SOME
    lengths = np.linalg.norm(np.asarray(classifier["kernel"], np.float64), axis=0)
    # Of the rest a few may be long; of the first half, if tested whole, most may be short.
    short = np.quantile(lengths[rest:], 0.97)
    return bool(fallen or np.quantile(lengths[start:stop], 0.9) > _LONGER * short)


def _imagenet_100() -> tuple[str, ...]:
    """Returns the paper's classes; none if the package was copied without its lists."""
    found = next((path for path in _IMAGENET_100 if path.is_file()), None)
    return tuple(sorted(map(str, class_names(str(found))))) if found else ()
