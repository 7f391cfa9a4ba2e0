"""The process that logs to a service: reads lines from standard input, and hands them on.

It imports the service's library, but neither JAX nor what needs it.
"""

import json
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from nsneg_jax.files import write_text


class Log(Protocol):
    """A run of a service."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds figures by tag."""
        ...

    def text(self, step: int, tag: str, text: str) -> None:
        """Adds a text."""
        ...

    def picture(self, step: int, tag: str, path: Path) -> None:
        """Adds a PNG file."""
        ...

    def close(self, is_whole: bool) -> None:
        """Ends the run; `is_whole` says whether as it should."""
        ...


# Opens a run with (folder for files, its name, project, config, id of an earlier start or '').
# Returns it with its id.
Opener = Callable[[Path, str, str, Mapping[str, Any], str], tuple[Log, str]]


class _Wandb:
    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def text(self, step: int, tag: str, text: str) -> None:
        self._run.summary[tag] = text

    def picture(self, step: int, tag: str, path: Path) -> None:
        import wandb

        self._run.log({tag: wandb.Image(str(path))}, step=step)

    def close(self, is_whole: bool) -> None:
        self._run.finish(exit_code=0 if is_whole else 1)


def open_wandb(
    folder: Path, name: str, project: str, config: Mapping[str, Any], kept: str
) -> tuple[Log, str]:
    """Opens a run of Weights & Biases; $WANDB_MODE, $WANDB_ENTITY and the like hold."""
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", project),
        name=os.environ.get("WANDB_NAME", name),
        id=kept or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4),
        resume="allow",
        dir=os.environ.get("WANDB_DIR", str(folder)),
        config=dict(config),
        settings=wandb.Settings(console="off", save_code=False),
    )
    return _Wandb(run), run.id


class _Mlflow:
    _LONGEST = 500  # characters of a parameter: the shortest limit of its stores

    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for tag, value in figures.items():
            if math.isfinite(value):  # some stores of MLflow take no other
                self._client.log_metric(self._run, tag, value, step=step)

    def text(self, step: int, tag: str, text: str) -> None:
        self._client.log_text(self._run, text, f"{tag}.md")

    def picture(self, step: int, tag: str, path: Path) -> None:
        self._client.log_artifact(self._run, str(path), tag)

    def close(self, is_whole: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if is_whole else "FAILED")


def open_mlflow(
    folder: Path, name: str, project: str, config: Mapping[str, Any], kept: str
) -> tuple[Log, str]:
    """Opens a run of MLflow at $MLFLOW_TRACKING_URI, or in files of the workdir."""
    # MLflow asks for this since 3.7; its databases need more packages.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Param

    uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").as_uri()
    client = MlflowClient(uri)
    if kept:
        client.update_run(kept, status="RUNNING")
        return _Mlflow(client, kept), kept
    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", project)
    experiment = client.get_experiment_by_name(project)
    place = experiment.experiment_id if experiment else client.create_experiment(project)
    run = client.create_run(place, run_name=name).info.run_id
    values = {key: str(value)[: _Mlflow._LONGEST] for key, value in _flat(config).items()}
    client.log_batch(run, params=[Param(key, value) for key, value in values.items()])
    return _Mlflow(client, run), run


class _Trackio:
    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def text(self, step: int, tag: str, text: str) -> None:
        import trackio

        self._run.log({tag: trackio.Markdown(text)}, step=step)

    def picture(self, step: int, tag: str, path: Path) -> None:
        import trackio

        self._run.log({tag: trackio.Image(str(path))}, step=step)

    def close(self, is_whole: bool) -> None:
        self._run.finish()


def open_trackio(
    folder: Path, name: str, project: str, config: Mapping[str, Any], kept: str
) -> tuple[Log, str]:
    """Opens a run of Trackio in $TRACKIO_DIR, or in files of the workdir; its id is its name."""
    os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))
    import trackio

    own = kept or f"{name}-{secrets.token_hex(2)}"
    run = trackio.init(project=project, name=own, config=_flat(config), resume="allow")
    return _Trackio(run), own


_OPENERS: Mapping[str, Opener] = {
    "wandb": open_wandb,
    "mlflow": open_mlflow,
    "trackio": open_trackio,
}
SERVICES = tuple(_OPENERS)


def main(service: str) -> None:
    """Logs the lines of standard input to a service, until they end."""
    log: Log | None = None
    is_whole = False
    for line in sys.stdin:
        message = json.loads(line)
        kind = message.pop("kind")
        if kind == "start":
            log = _opened(service, **message)
        elif kind == "end":
            is_whole = message["is_whole"]
        elif log is not None:
            if kind == "figures":
                log.write(**message)
            elif kind == "text":
                log.text(**message)
            elif kind == "picture":
                log.picture(message["step"], message["tag"], Path(message["path"]))
    if log is not None:
        log.close(is_whole)


def _opened(service: str, folder: str, run: str, project: str, config: Mapping[str, Any]) -> Log:
    """Opens the run that an earlier start has opened, or a new one."""
    path = Path(folder) / f"{service}.id"
    kept = path.read_text("utf-8").strip() if path.exists() else ""
    log, own = _OPENERS[service](Path(folder), run, project, config, kept)
    write_text(path, own + "\n")
    return log


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[re.sub(r"[^\w./ -]", "_", before + name)] = value
    return found
