"""Reads what the workdirs of runs hold, finished or not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsneg_jax.files import json_lines, json_object
from nsneg_jax.training.workdir import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    RESULTS,
    STARTS,
    flatten,
    step_folders,
)

# Fields that say where files are or how work is shared out, but not what is computed.
_INCIDENTAL = ("data.threads", "data.workers", "log_every_steps", "pictures", "csv", "label")


@dataclass(frozen=True)
class Run:
    """The files of a run, as far as they are there.

    Attributes:
        path: workdir.
        given: the path that was given: the workdir, or a checkpoint folder or file in it.
        name: shortest name that no other run of the page has.
        job: 'pretrain', 'linear', 'knn', 'features' or 'evaluate'; '' if unknown.
        config: config.json; {} without it.
        results: results.json; {} without it.
        metrics: lines of metrics.jsonl, in their order.
        starts: lines of starts.jsonl, see `training.starts`.
        steps: steps of the checkpoints that are there, in order.
    """

    path: Path
    given: Path
    name: str
    job: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    starts: Sequence[Mapping[str, Any]]
    steps: Sequence[int]

    @property
    def step(self) -> int | None:
        """The step of the checkpoint that was given, else of the latest; None without any."""
        if self.given != self.path and self.given.name.isdecimal():
            return int(self.given.name)
        return self.steps[-1] if self.steps else None

    def last(self, metric: str, split: str = "train") -> float | None:
        """Returns the last finite value of a metric; None without any."""
        for line in reversed(self.metrics):
            value = line.get(metric)
            if line.get("split") == split and isinstance(value, int | float):
                return float(value)
        return None


def read(paths: Sequence[Path]) -> list[Run]:
    """Reads runs by their workdirs, a checkpoint folder in one, or a results.json.

    Files that are missing, or lines that cannot be read, count as not there: a run may be going on.
    """
    given = {_folder(path): path for path in reversed(paths)}
    folders = list(reversed(given))
    names = _names(folders)
    return [_run(each, given[each], name) for each, name in zip(folders, names, strict=True)]


def job_of(path: Path) -> str:
    """Returns the job of a workdir, or of a checkpoint folder in it; '' if unknown."""
    return str(json_object(_folder(path) / CONFIG).get("job", ""))


def differences(runs: Sequence[Run]) -> tuple[dict[str, list[Any]], int]:
    """Returns the fields in which the configs of runs differ, and how many are equal.

    Args:
        runs: runs of one job; a field that one of them lacks counts as None.

    Returns:
        The values by field, one per run; the number of fields with the same value in all runs.
    """
    fields = [flatten(run.config) for run in runs]
    names = list(dict.fromkeys(name for each in fields for name in each))
    found = {name: [each.get(name) for each in fields] for name in names if name not in _INCIDENTAL}
    different = {name: v for name, v in found.items() if any(value != v[0] for value in v)}
    return different, len(found) - len(different)


def _folder(path: Path) -> Path:
    if path.parent.name == CHECKPOINTS:
        return path.parent.parent
    return path.parent if path.is_file() else path


def _run(folder: Path, given: Path, name: str) -> Run:
    config, results = json_object(folder / CONFIG), json_object(folder / RESULTS)
    return Run(
        path=folder,
        given=given,
        name=name,
        job=str(config.get("job") or results.get("job") or ""),
        config=config,
        results=results,
        metrics=json_lines(folder / METRICS),
        starts=json_lines(folder / STARTS),
        steps=[int(path.name) for path in step_folders(folder / CHECKPOINTS)],
    )


def _names(folders: Iterable[Path]) -> list[str]:
    resolved = [folder.resolve() for folder in folders]
    deepest = max((len(path.parts) for path in resolved), default=1)
    for depth in range(1, deepest + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in resolved]
