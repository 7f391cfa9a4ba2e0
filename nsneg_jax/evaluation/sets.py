"""The sets of a robustness evaluation, and the parts that they are evaluated in."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from nsneg_jax.corruptions import registry, settings_of
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.cue_conflict import check_textures, open_cues
from nsneg_jax.evaluation.protocols.accepted import Accepted
from nsneg_jax.evaluation.protocols.benchmarks import IMAGENET_C, SUPPRESSION, available
from nsneg_jax.evaluation.protocols.imagenet import CLASS_LISTS, index_names, listed
from nsneg_jax.evaluation.protocols.objectnet import open_objectnet
from nsneg_jax.evaluation.protocols.real import WHERE, with_real_labels
from nsneg_jax.evaluation.released import RELEASED
from nsneg_jax.files import earlier_data, expand
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.input.sources.source import is_arrays, is_files, open_files, open_source
from nsneg_jax.input.texture_pairs import TexturesInMemory


@dataclass(frozen=True)
class EvaluationSet:
    """Where the images of a set are, and how to evaluate them.

    Attributes:
        source: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG]', 'hf:PATH[/CONFIG]',
            'shapes/VERSION:SIZE' or files of arrays, such as 'cifar10:PATH'.
        split: folder in PATH that holds the class folders, or a split of TFDS.
        resize: shorter side before the central crop, in pixels for views of 224, scaled for others;
            224 shows square files whole, as they were released; 0 crops without resizing.
        protocol: one of `PROTOCOLS`.
        answers: arg-max over 'all' classes of the classifier, those 'present' in the set, or those
            of a list in `CLASS_LISTS`, such as 'imagenet-a'.
        names: names of class folders: 'class' names, or 'index' in ImageNet-1K.
        generate: whether 'corruption' corrupts the clean images of `source` here, and 'texture'
            makes textures of them (of the built-in ones only).
        extra: whether `generate` includes corruptions outside the benchmark's mean, ImageNet-C's
            four and any added ones.
        labels: file with the classes of images in no class folders, see `Folder`; '' for none. For
            'real', ReaL's labels.
        benchmark: which corruptions 'corruption' looks for and averages, see `BENCHMARKS`.
        border: pixels to cut from each side of an image of 'objectnet'.
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
    benchmark: str = IMAGENET_C
    border: int = 0


PROTOCOLS = ("top1", "corruption", "texture", "cue_conflict", "real", "objectnet")


class Part(NamedTuple):
    """The unit of a robustness evaluation: it is finished, and kept, as a whole.

    Attributes:
        set_name: name of the set.
        corruption_of: (corruption, severity) of the part, or None.
        protocol: one of `PROTOCOLS`.
        source: the images; labels are indices into the classifier's classes.
        about: name of the source, for the results.
        resize: shorter side before the central crop, at 224; 0 crops without resizing.
        answers: bool [C], the allowed outputs.
        corruption: (name, severity) to apply to the images here, or None.
        settings: settings of the set, as JSON.
        generated: whether the images are made here, by TFDS or by rule, rather than released.
        accepted: the classes that are right for each image, where that may be several.
        benchmark: benchmark of a corruption.
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
    accepted: Accepted | None = None
    benchmark: str = IMAGENET_C

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
    outputs: int | None = None,
    seed: int = 0,
) -> tuple[list[Part], dict[str, str]]:
    """Returns the parts to evaluate, and where to get the missing sets.

    Args:
        sets: sets by name.
        classes: classes of the classifier, in the order of its first outputs.
        only: names of the sets to evaluate; () for all.
        require_all: whether a missing set is an error.
        image_size: side in pixels of generated images.
        tfds_dir: folder of TFDS data sets.
        outputs: C, outputs of the classifier, if it has more than classes.
        seed: seed of textures made here.

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
                parts += _parts(name, settings, classes, image_size, tfds_dir, seed)
            except UsageError as error:
                missing[name] = str(error).removesuffix(".")
    surplus = (outputs or len(classes)) - len(classes)
    if surplus:
        parts = [_with_others(part, surplus, sets[part.set_name].answers) for part in parts]
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
    name: str,
    settings: EvaluationSet,
    classes: Sequence[str],
    image_size: int,
    tfds_dir: str,
    seed: int,
) -> list[Part]:
    if settings.protocol == "corruption" and not settings.generate:
        return _ready_corruptions(name, settings, classes, tfds_dir)
    if settings.protocol in ("real", "objectnet"):
        several, accepted = _open_several(name, settings, classes, tfds_dir)
        about, made = several.name, False
        return [_part(name, settings, several, classes, accepted, about=about, generated=made)]
    source = _open(name, settings, classes, image_size, tfds_dir)
    if settings.protocol == "texture" and settings.generate:
        if is_files(settings.source):
            raise UsageError(
                f"The set {name} is {settings.source}, of which no textures are made here. Make "
                "them with `nsneg prepare texture --split val`, give their folder with "
                f"--config.sets.{name}.source=folder:PATH, and leave out generate."
            )
        source = TexturesInMemory(source, image_size, seed)
    procedural = settings.source.startswith("shapes")
    one = _part(name, settings, source, classes, about=source.name, generated=procedural)
    if settings.protocol != "corruption":
        return [one]
    kinds: tuple[str, ...] = () if settings.extra else (registry.TEST,)
    if settings.benchmark == SUPPRESSION:
        kinds = (registry.SUPPRESSION,)
    return [
        one._replace(corruption_of=which, corruption=which, generated=True)
        for which in settings_of(*kinds)
    ]


def _part(
    name: str,
    settings: EvaluationSet,
    source: Source,
    classes: Sequence[str],
    accepted: Accepted | None = None,
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
        answers=_answers(name, settings, source, classes, accepted),
        corruption=None,
        settings=json.dumps(_recorded(settings)),
        generated=generated,
        accepted=accepted,
        benchmark=settings.benchmark,
    )


def _recorded(settings: EvaluationSet) -> dict[str, Any]:
    """Returns the settings of a set, without those that earlier versions had not."""
    added = {"labels": "", "benchmark": IMAGENET_C, "border": 0}
    return {k: v for k, v in asdict(settings).items() if k not in added or v != added[k]}


def _ready_corruptions(
    name: str, settings: EvaluationSet, classes: Sequence[str], tfds_dir: str
) -> list[Part]:
    """Makes one part per available corruption and severity of a ready-made set."""
    scheme, _, root = expand(settings.source).partition(":")
    if not is_files(settings.source) or is_arrays(settings.source):
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
            classes,
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
            f"The set {name} has no folder CORRUPTION/SEVERITY in {root}, such as {root}/"
            f"{'/'.join(map(str, available(settings.benchmark)[0]))}. Give the folder that the "
            "benchmark was unpacked to with "
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
    for which in available(settings.benchmark):
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
    scheme = settings.source.partition(":")[0]
    if not is_files(settings.source):
        source = open_source(settings.source, settings.split, image_size=image_size)
        if tuple(source.classes) != tuple(classes):
            raise UsageError(
                f"The set {name}, {source.name}, has the classes {', '.join(source.classes)}, but "
                f"the classifier has {len(classes)} others. Evaluate a probe of the same data."
            )
        if settings.protocol == "cue_conflict":
            check_textures(name, source)
        return source
    if settings.protocol == "cue_conflict":
        return open_cues(name, settings.source, settings.split, classes)
    # In TFDS, wnids name the labels of all these sets.
    by_name = settings.names == "class" or scheme == "tfds"
    names = classes if by_name else index_names(name, classes)
    return open_files(
        settings.source,
        settings.split,
        names,
        partial=True,
        tfds_dir=tfds_dir,
        labels=settings.labels,
    )


def _open_several(
    name: str, settings: EvaluationSet, classes: Sequence[str], tfds_dir: str
) -> tuple[Source, Accepted]:
    """Opens a set whose images may have several right classes."""
    scheme, _, root = expand(settings.source).partition(":")
    if settings.protocol == "objectnet":
        if scheme != "folder":
            raise UsageError(
                f"The set {name} is {settings.source}, but ObjectNet is read from its folder, "
                f"with the mapping of its classes. Set --config.sets.{name}.source=folder:PATH."
            )
        return open_objectnet(root, settings.split, classes, settings.border)
    if not settings.labels:
        raise UsageError(
            f"The set {name} has no labels. Get {WHERE}, and give its path with "
            f"--config.sets.{name}.labels=FILE."
        )
    source = open_files(settings.source, settings.split, classes, partial=True, tfds_dir=tfds_dir)
    return with_real_labels(source, expand(settings.labels), classes)


def _answers(
    name: str,
    settings: EvaluationSet,
    source: Source,
    classes: Sequence[str],
    accepted: Accepted | None,
) -> np.ndarray:
    if settings.answers == "all":
        return np.ones(len(classes), bool)
    if settings.answers in CLASS_LISTS:
        allowed = np.array([each in listed(settings.answers) for each in classes])
        others = np.unique(np.asarray(source.labels)[~allowed[source.labels]])
        if others.size:
            raise UsageError(
                f"The set {name} has images of {classes[others[0]]}, no class of answers="
                f"{settings.answers!r}. Give the right folder with --config.sets.{name}.source="
                f"folder:PATH, or set --config.sets.{name}.answers=present."
            )
        return allowed
    if accepted is not None:
        return np.logical_or.reduce(accepted.table)
    present = np.zeros(len(classes), bool)
    present[np.unique(source.labels)] = True
    return present


def _with_others(part: Part, surplus: int, answers: str) -> Part:
    """Adds `surplus` outputs that are no class; they may be answers where all classes may."""
    others = np.full(surplus, answers == "all")
    accepted = part.accepted
    if accepted is not None:
        accepted = accepted._replace(table=np.pad(accepted.table, ((0, 0), (0, surplus))))
    return part._replace(answers=np.concatenate([part.answers, others]), accepted=accepted)
