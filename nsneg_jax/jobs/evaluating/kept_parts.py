"""Outputs of an evaluation's parts, kept between starts as long as what they depend on is the same.

A change of classifier, of a set's settings or of its files makes the parts it affects outdated.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np

from nsneg_jax.corruptions import TABLE, definition, registry
from nsneg_jax.evaluation import summary
from nsneg_jax.evaluation.classifier import ANSWERS
from nsneg_jax.evaluation.sets import Part
from nsneg_jax.files import write_npz
from nsneg_jax.input.sources.identity import FileState, file_state, identity
from nsneg_jax.jobs.frozen import EvaluationSettings
from nsneg_jax.parallel import hosts
from nsneg_jax.pretrained import Pretrained
from nsneg_jax.training.workdir import PARTS


class KeptParts:
    """The outputs of parts in WORKDIR/parts, and what they depend on.

    Args:
        workdir: workdir of the evaluation.
        settings: its settings.
        pretrained: its classifier.
        classes: the classifier's classes.
        parts: all parts, the same on all processes.

    Raises:
        UsageError: processes have different ones.
    """

    def __init__(
        self,
        workdir: Path,
        settings: EvaluationSettings,
        pretrained: Pretrained,
        classes: Sequence[str],
        parts: Sequence[Part],
    ) -> None:
        self._folder, self._parts = workdir / PARTS, parts
        network = _fingerprint(pretrained, classes)
        self._keys = {part.title: _key(settings, network, part) for part in self._parts}
        hosts.agree("classifier and files", self._keys, hosts.SAME_DATA)
        # Generated corruptions share a source.
        sources = {id(part.source): part.source for part in self._parts}
        texts = {number: json.dumps(identity(source)) for number, source in sources.items()}
        self._data = {part.title: texts[id(part.source)] for part in self._parts}
        self._states: dict[int, FileState] = {}

    def made(self) -> dict[str, str]:
        """Returns when the parts that hold as they are were made, by title."""
        first = jax.process_index() == 0
        made = hosts.of_first([self._made(part) for part in self._parts] if first else None)
        return {part.title: when for part, when in zip(self._parts, made, strict=True) if when}

    def state(self, part: Part) -> FileState:
        """Returns the state of a part's files, looked at once."""
        number = id(part.source)
        if number not in self._states:
            self._states[number] = file_state(part.source)
        return self._states[number]

    def write(self, part: Part, outputs: Mapping[str, np.ndarray], files: str) -> None:
        """Keeps the outputs of a part whose files had the state `files` before."""
        about = {"key": self._keys[part.title], "data": self._data[part.title]}
        about |= {"files": files, "made": _now()}
        arrays = {name: np.array(text) for name, text in about.items()}
        write_npz(self._path(part), {**outputs, **arrays})

    def by_set(self) -> dict[str, summary.Parts]:
        """Reads the outputs of all parts."""
        found: dict[str, summary.Parts] = {}
        for part in self._parts:
            with np.load(self._path(part)) as outputs:
                found.setdefault(part.set_name, []).append((part, dict(outputs)))
        return found

    def _made(self, part: Part) -> str:
        """Returns when a part was made that holds as it is; '' if it is missing or outdated."""
        path = self._path(part)
        kept = read_whole(path, part)
        if kept is None or str(kept["key"]) != self._keys[part.title]:
            return ""
        # Earlier versions kept no data, and no state of the files.
        data = self._data[part.title]
        if str(kept.get("data", data)) != data:
            return ""
        state, changed = self.state(part), path.stat().st_mtime_ns
        same = str(kept["files"]) == state.digest if "files" in kept else state.newest < changed
        when = str(kept["made"]) if "made" in kept else _time(changed / 1e9)
        return when if same else ""

    def _path(self, part: Part) -> Path:
        return self._folder / f"{part.title.replace(' ', '-')}.npz"


def read_whole(path: Path, part: Part) -> dict[str, np.ndarray] | None:
    """Reads the outputs of a part; None if they are missing, damaged or not of all its images."""
    try:
        kept = dict(np.load(path))
        names = ANSWERS + ("probabilities",) * (part.protocol == "cue_conflict")
        whole = "key" in kept and all(len(kept[name]) == len(part.source) for name in names)
        # Repeat a part with an unreadable image, which may have been replaced by now.
        good = whole and kept["valid"].all() and np.isfinite(kept["confidence"]).all()
    except Exception:  # whatever damage raises: the part is made again
        return None
    return kept if good else None


def _fingerprint(pretrained: Pretrained, classes: Sequence[str]) -> str:
    """Hashes every value of the network and the names of its classes."""
    digest = hashlib.sha256("\n".join(classes).encode("utf-8", "surrogateescape"))
    for leaf in jax.tree.leaves((pretrained.params, pretrained.stats, pretrained.classifier)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _key(settings: EvaluationSettings, network: str, part: Part) -> str:
    """Returns all that the outputs of a part depend on, except the contents of its files.

    This includes the location of the set as given.
    """
    listed = "\n".join(part.names()).encode("utf-8", "surrogateescape")
    names = hashlib.sha256(listed).hexdigest()
    size = settings.reading.image_size
    others = [size, settings.seed, settings.dtype, settings.precision]
    if part.corruption is not None and TABLE[part.corruption[0]].kind == registry.OWN:
        others.append(definition(*part.corruption, size))
    return json.dumps([network, part.settings, names, *others])


def _now() -> str:
    return _time(time.time())


def _time(seconds: float) -> str:
    """Formats seconds since 1970, e.g. '2026-11-28 09:30 UTC'."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
