"""The sets of a robustness evaluation, and the parts that they are evaluated in."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsneg_jax.corruptions import registry, settings_of
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.cue_conflict import cues_of, read_categories
from nsneg_jax.evaluation.released import RELEASED
from nsneg_jax.files import earlier_data, expand
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.folder import Folder
from nsneg_jax.input.sources.source import Source, class_names, is_files, open_files, open_source

IMAGENET_1K = Path(__file__).parent / "imagenet1k.txt"


@dataclass(frozen=True)
class EvaluationSet:
    """Where the images of a set are, and how to evaluate them.

    Attributes:
        source: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG]', 'hf:PATH[/CONFIG]' or
            'shapes/VERSION:SIZE'.
        split: folder in PATH that holds the class folders, or a split of TFDS.
        resize: shorter side before the central crop, in pixels for views of 224, scaled for others;
            224 shows square files whole, as they were released; 0 crops without resizing.
        protocol: one of `PROTOCOLS`.
        answers: arg-max over 'all' classes of the classifier or those 'present' in the set.
        names: names of class folders: 'class' names, or 'index' in ImageNet-1K.
        generate: whether 'corruption' corrupts the clean images of `source` here.
        extra: whether `generate` includes corruptions outside the benchmark's mean, ImageNet-C's
            four and any added ones.
        labels: file with the classes of images in no class folders, see `Folder`; '' for none.
    """

    source: str
    split: str
    resize: int
    protocol: str
    answers: str
    names: str
    generate: bool
    extra: bool
    labels: str = ""


PROTOCOLS = ("top1", "corruption", "cue_conflict")


class Part(NamedTuple):
    """The unit of a robustness evaluation: it is finished, and kept, as a whole.

    Attributes:
        set_name: name of the set.
        corruption_of: (corruption, severity) of the part, or None.
        protocol: one of `PROTOCOLS`.
        source: the images; labels are indices into the classifier's classes.
        about: name of the source, for the results.
        resize: shorter side before the central crop, at 224; 0 crops without resizing.
        answers: bool [C], the allowed classes.
        corruption: (name, severity) to apply to the images here, or None.
        settings: settings of the set, as JSON.
        generated: whether the images are made here, by TFDS or by rule, rather than released.
    """

    set_name: str
    corruption_of: tuple[str, int] | None
    protocol: str
    source: Source
    about: str
    resize: int
    answers: np.ndarray
    corruption: tuple[str, int] | None
    settings: str
    generated: bool

    def names(self) -> list[str]:
        """Returns the paths of the images below the split, or their numbers."""
        path = getattr(self.source, "path", str)
        return [path(i) for i in range(len(self.source))]

    @property
    def title(self) -> str:
        """Title, e.g. 'sketch' or 'corruption gaussian_noise 3'."""
        return " ".join(map(str, (self.set_name, *(self.corruption_of or ()))))


def plan(
    sets: Mapping[str, EvaluationSet],
    classes: Sequence[str],
    *,
    only: Sequence[str] = (),
    require_all: bool = False,
    image_size: int,
    tfds_dir: str = "",
) -> tuple[list[Part], dict[str, str]]:
    """Returns the parts to evaluate, and where to get the missing sets.

    Args:
        sets: sets by name.
        classes: classes of the classifier, in the order of its logits.
        only: names of the sets to evaluate; () for all.
        require_all: whether a missing set is an error.
        image_size: side in pixels of generated images.
        tfds_dir: folder of TFDS data sets.

    Raises:
        UsageError: `only` has an unknown name, no set can be used, or a set is missing although
            `require_all` is set.
    """
    wanted = list(only) or list(sets)
    unknown = [name for name in wanted if name not in sets]
    if unknown:
        raise UsageError(
            f"only names {unknown[0]!r}, but the sets are {', '.join(sets)}. Choose among "
            "these with --config.only=NAME,NAME, or add a set in a config file of your own."
        )
    parts, missing = [], {}
    for name in wanted:
        settings = sets[name]
        scheme, _, root = expand(settings.source).partition(":")
        if scheme == "folder" and not storage.is_folder(root):
            where = f"{root} is not there"
            if name in RELEASED:
                where += f"; get {RELEASED[name].where}"
                if RELEASED[name].tfds:
                    where += f", or --config.sets.{name}.source=tfds:{RELEASED[name].tfds}"
            missing[name] = f"{where}.{earlier_data(root)}".removesuffix(".")
        else:
            try:
                parts += _parts(name, settings, classes, image_size, tfds_dir)
            except UsageError as error:
                missing[name] = str(error).removesuffix(".")
    if missing and require_all:
        listed = "; ".join(f"{name}: {where}" for name, where in missing.items())
        raise UsageError(
            f"{len(missing)} of {len(wanted)} sets are missing, and require_all is set: {listed}. "
            "Set where they are with --config.sets.NAME.source=folder:PATH."
        )
    if not parts:
        listed = "; ".join(f"{name}: {where}" for name, where in missing.items())
        raise UsageError(
            f"None of the sets is there: {listed}. Set where they are with "
            "--config.sets.NAME.source=folder:PATH."
        )
    return parts, missing


def _parts(
    name: str, settings: EvaluationSet, classes: Sequence[str], image_size: int, tfds_dir: str
) -> list[Part]:
    if settings.protocol == "corruption" and not settings.generate:
        return _ready_corruptions(name, settings, classes, tfds_dir)
    source = _open(name, settings, classes, image_size, tfds_dir)
    procedural = settings.source.startswith("shapes")
    one = _part(name, settings, source, len(classes), about=source.name, generated=procedural)
    if settings.protocol != "corruption":
        return [one]
    kinds = () if settings.extra else (registry.TEST,)
    return [
        one._replace(corruption_of=which, corruption=which, generated=True)
        for which in settings_of(*kinds)
    ]


def _part(
    name: str,
    settings: EvaluationSet,
    source: Source,
    classes: int,
    *,
    about: str,
    generated: bool,
    corruption_of: tuple[str, int] | None = None,
) -> Part:
    """Makes a part with the images of the source unchanged."""
    return Part(
        set_name=name,
        corruption_of=corruption_of,
        protocol=settings.protocol,
        source=source,
        about=about,
        resize=settings.resize,
        answers=_answers(settings, source, classes),
        corruption=None,
        settings=json.dumps(_recorded(settings)),
        generated=generated,
    )


def _recorded(settings: EvaluationSet) -> dict[str, Any]:
    """Returns the settings of a set, without those that earlier versions had not."""
    found = asdict(settings)
    return found if settings.labels else {k: v for k, v in found.items() if k != "labels"}


def _ready_corruptions(
    name: str, settings: EvaluationSet, classes: Sequence[str], tfds_dir: str
) -> list[Part]:
    """Makes one part per available corruption and severity of a ready-made set."""
    scheme, _, root = expand(settings.source).partition(":")
    if not is_files(settings.source):
        raise UsageError(
            f"The set {name} is {settings.source}, which has no released corruptions. Set "
            f"--config.sets.{name}.generate=True to make them here, or give a folder."
        )
    opened = _tfds_corruptions if scheme == "tfds" else _released_corruptions
    parts = [
        _part(
            name,
            settings,
            source,
            len(classes),
            about=settings.source,
            generated=scheme == "tfds",
            corruption_of=which,
        )
        for which, source in opened(root, settings, classes, tfds_dir)
    ]
    if not parts and scheme == "tfds":
        from nsneg_jax.input.sources.tfds import not_prepared

        raise not_prepared(root, tfds_dir)
    if not parts:
        raise UsageError(
            f"The set {name} has no folder CORRUPTION/SEVERITY in {root}, such as "
            f"{root}/gaussian_noise/1. Give the folder that ImageNet-C was unpacked to with "
            f"--config.sets.{name}.source=folder:PATH; docs/robustness.md says how to corrupt "
            "clean images here instead."
        )
    return parts


def _released_corruptions(
    root: str, settings: EvaluationSet, classes: Sequence[str], tfds_dir: str
) -> Iterator[tuple[tuple[str, int], Source]]:
    """Yields those in CORRUPTION/SEVERITY, in `root` or in any folder of it."""
    scheme = settings.source.partition(":")[0]
    # The archives noise.tar, blur.tar ... may have been unpacked into separate folders.
    places = [root, *(storage.join(root, folder) for folder in storage.folders(root))]
    for which in settings_of():
        corruption, severity = which
        found = [p for p in places if storage.is_folder(f"{p}/{corruption}/{severity}")]
        if found:
            spec = f"{scheme}:{found[0]}/{corruption}"
            yield which, open_files(spec, str(severity), classes, partial=True)


def _tfds_corruptions(
    root: str, settings: EvaluationSet, classes: Sequence[str], tfds_dir: str
) -> Iterator[tuple[tuple[str, int], Source]]:
    """Yields the prepared ones; TFDS has one config per corruption and severity."""
    from nsneg_jax.input.sources.tfds import NotPrepared, Tfds

    name, _, version = root.partition(":")
    for which in settings_of():
        spec = f"{name}/{which[0]}_{which[1]}" + (f":{version}" if version else "")
        with suppress(NotPrepared):
            yield which, Tfds(spec, settings.split, classes, True, tfds_dir)


def _open(
    name: str, settings: EvaluationSet, classes: Sequence[str], image_size: int, tfds_dir: str
) -> Source:
    scheme, _, root = expand(settings.source).partition(":")
    if not is_files(settings.source):
        source = open_source(settings.source, settings.split, image_size=image_size)
        if tuple(source.classes) != tuple(classes):
            raise UsageError(
                f"The set {name}, {source.name}, has the classes {', '.join(source.classes)}, but "
                f"the classifier has {len(classes)} others. Evaluate a probe of the same data."
            )
        return source
    if settings.protocol == "cue_conflict" and scheme != "folder":
        raise UsageError(
            f"The set {name} is {settings.source}, but cue conflicts are read from folders, "
            f"because file names hold the cues. Set --config.sets.{name}.source=folder:PATH."
        )
    if settings.protocol == "cue_conflict":
        if len({category for wnid, category in read_categories().items() if wnid in classes}) < 2:
            raise UsageError(
                f"The classifier's classes belong to fewer than two of the categories of {name}, "
                "so it cannot decide between them."
            )
        return _CueFolder(root, settings.split)
    # In TFDS, wnids name the labels of all these sets.
    by_name = settings.names == "class" or scheme == "tfds"
    names = classes if by_name else _imagenet_indices(name, classes)
    return open_files(
        settings.source,
        settings.split,
        names,
        partial=True,
        tfds_dir=tfds_dir,
        labels=settings.labels,
    )


class _CueFolder(Folder):
    """The released cue-conflict images: no labels, but `cues` (shape, texture) by file name."""

    def __init__(self, root: str, split: str) -> None:
        super().__init__(root, split)
        self.labels = np.zeros(len(self), np.int32)
        self.cues = tuple(zip(*(cues_of(self.path(i)) for i in range(len(self))), strict=True))


def _imagenet_indices(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the folder names of `classes` in sets that use their index in ImageNet-1K."""
    indices = {wnid: str(i) for i, wnid in enumerate(class_names(str(IMAGENET_1K)))}
    unknown = [wnid for wnid in classes if wnid not in indices]
    if unknown:
        raise UsageError(
            f"The set {name} names classes by their index in ImageNet-1K, which lacks the "
            f"classifier's class {unknown[0]!r}. Leave this set out with --config.only=..., "
            f"or rename its folders and set --config.sets.{name}.names=class."
        )
    return tuple(indices[wnid] for wnid in classes)


def _answers(settings: EvaluationSet, source: Source, classes: int) -> np.ndarray:
    if settings.answers == "all":
        return np.ones(classes, bool)
    present = np.zeros(classes, bool)
    present[np.unique(source.labels)] = True
    return present
