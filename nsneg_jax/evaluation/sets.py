"""The sets of a robustness evaluation, and the parts that they are evaluated in."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nsneg_jax.corruptions import CORRUPTIONS, EXTRA, SEVERITIES
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.cue_conflict import cues_of, read_categories
from nsneg_jax.evaluation.released import RELEASED
from nsneg_jax.files import expand
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.folder import Folder
from nsneg_jax.input.sources.source import Source, class_names, is_files, open_files, open_source

IMAGENET_1K = Path(__file__).parent / "imagenet1k.txt"


@dataclass(frozen=True)
class EvaluationSet:
    """Where the images of a set are and how they are asked for.

    Attributes:
        source: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG]' or 'shapes/VERSION:SIZE'.
        split: folder of the class folders in PATH, or a split of TFDS.
        resize: shorter side before the central crop, at 224; 0 for the crop alone.
        protocol: one of `PROTOCOLS`.
        answers: arg-max over 'all' classes of the classifier or those 'present' in the set.
        names: of the class folders: 'class' names or 'index', those of ImageNet-1K.
        generate: of 'corruption': corrupt the clean images of `source` here.
        extra: of `generate`: the corruptions outside the benchmark's mean too.
    """

    source: str
    split: str
    resize: int
    protocol: str
    answers: str
    names: str
    generate: bool
    extra: bool


PROTOCOLS = ("top1", "corruption", "cue_conflict")


class Part(NamedTuple):
    """A piece of a robustness evaluation that is finished as a whole.

    Attributes:
        set_name: name of the set.
        corruption_of: (corruption, severity) that the part shows, or None.
        protocol: one of `PROTOCOLS`.
        source: of the images; labels are indices into the classifier's classes.
        about: the name of the source, for the results.
        resize: shorter side before the central crop, at 224; 0 for the crop alone.
        answers: bool [C], the classes that may be answered.
        corruption: what is to be done to the images here, (name, severity), or None.
        settings: of the set, as JSON.
        generated: whether the images are made here, by TFDS or by rule, and not a released set's.
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
        """Of the images: their paths below the split, or their numbers."""
        path = getattr(self.source, "path", str)
        return [path(i) for i in range(len(self.source))]

    @property
    def title(self) -> str:
        """E.g. 'sketch' or 'corruption gaussian_noise 3'."""
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
    """The parts to do, and of sets that are not there where to get them.

    Args:
        sets: by name.
        classes: the classifier's, in the order of its logits.
        only: names of the sets to do; all without any.
        require_all: whether a missing set is an error.
        image_size: side in pixels of images that are drawn, not read.
        tfds_dir: where data sets of TFDS are.

    Raises:
        UsageError: `only` names no set, no set can be used, or one is missing and `require_all`
            is set.
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
            missing[name] = where
        else:
            try:
                parts += _parts(name, settings, classes, image_size, tfds_dir)
            except UsageError as error:
                missing[name] = str(error)
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
    names = (*CORRUPTIONS, *(EXTRA if settings.extra else ()))
    return [
        one._replace(corruption_of=(kind, s), corruption=(kind, s), generated=True)
        for kind in names
        for s in SEVERITIES
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
    """A part whose images are taken as the source has them."""
    return Part(
        set_name=name,
        corruption_of=corruption_of,
        protocol=settings.protocol,
        source=source,
        about=about,
        resize=settings.resize,
        answers=_answers(settings, source, classes),
        corruption=None,
        settings=json.dumps(asdict(settings)),
        generated=generated,
    )


def _ready_corruptions(
    name: str, settings: EvaluationSet, classes: Sequence[str], tfds_dir: str
) -> list[Part]:
    """One part for each corruption and severity that is there, made by others."""
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
    """Those in CORRUPTION/SEVERITY, at any one folder's depth below."""
    scheme = settings.source.partition(":")[0]
    # the archives noise.tar, blur.tar ... may have been unpacked into folders of their own
    places = [root, *(storage.join(root, folder) for folder in storage.folders(root))]
    for which in _SETTINGS:
        corruption, severity = which
        found = [p for p in places if storage.is_folder(f"{p}/{corruption}/{severity}")]
        if found:
            spec = f"{scheme}:{found[0]}/{corruption}"
            yield which, open_files(spec, str(severity), classes, partial=True)


def _tfds_corruptions(
    root: str, settings: EvaluationSet, classes: Sequence[str], tfds_dir: str
) -> Iterator[tuple[tuple[str, int], Source]]:
    """Those that are prepared: TFDS has a config for each corruption and severity."""
    from nsneg_jax.input.sources.tfds import NotPrepared, Tfds

    name, _, version = root.partition(":")
    for which in _SETTINGS:
        spec = f"{name}/{which[0]}_{which[1]}" + (f":{version}" if version else "")
        with suppress(NotPrepared):
            yield which, Tfds(spec, settings.split, classes, True, tfds_dir)


_SETTINGS = tuple((name, s) for name in (*CORRUPTIONS, *EXTRA) for s in SEVERITIES)


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
            f"because their names tell them. Set --config.sets.{name}.source=folder:PATH."
        )
    if settings.protocol == "cue_conflict":
        if len({category for wnid, category in read_categories().items() if wnid in classes}) < 2:
            raise UsageError(
                f"The classifier's classes belong to fewer than two of the categories of {name}, "
                "so it cannot decide between them."
            )
        return _CueFolder(root, settings.split)
    # TFDS names the labels of all these sets by wnid
    by_name = settings.names == "class" or scheme == "tfds"
    names = classes if by_name else _imagenet_indices(name, classes)
    return open_files(settings.source, settings.split, names, partial=True, tfds_dir=tfds_dir)


class _CueFolder(Folder):
    """The released cue-conflict images: no labels, `cues` (shape, texture) from their names."""

    def __init__(self, root: str, split: str) -> None:
        super().__init__(root, split)
        self.labels = np.zeros(len(self), np.int32)
        self.cues = tuple(zip(*(cues_of(self.path(i)) for i in range(len(self))), strict=True))


def _imagenet_indices(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Folder names of `classes` in sets that name them by their index in ImageNet-1K."""
    indices = {wnid: str(i) for i, wnid in enumerate(class_names(str(IMAGENET_1K)))}
    unknown = [wnid for wnid in classes if wnid not in indices]
    if unknown:
        raise UsageError(
            f"The set {name} has classes by their index in ImageNet-1K, where the classifier's "
            f"class {unknown[0]!r} is not to be found. Leave this set out with --config.only=..., "
            f"or rename its folders and set --config.sets.{name}.names=class."
        )
    return tuple(indices[wnid] for wnid in classes)


def _answers(settings: EvaluationSet, source: Source, classes: int) -> np.ndarray:
    if settings.answers == "all":
        return np.ones(classes, bool)
    present = np.zeros(classes, bool)
    present[np.unique(source.labels)] = True
    return present
