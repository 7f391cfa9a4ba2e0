"""Sends what a run writes of itself to W&B, MLflow or Trackio, by a process of its own.

Such a library may wait for a network, fail, take over signals and standard output, or wait at the
end of its process. In another process none of it reaches the training, which hands lines to a
thread and goes on. The process ends with the training, also if that is killed.
"""

import importlib.util
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsneg_jax.extras import needed
from nsneg_jax.training.progress import warn
from nsneg_jax.training.workdir import LOGGERS, METRICS

_PATIENCE = 60.0  # seconds for a service to finish at the end of a run
_LONGEST = 300  # characters of a reason
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nsneg_jax.training.loggers.process import main; main(sys.argv[2])"
)


def services_in(names: str) -> tuple[str, ...]:
    """Returns the services in a value of the field `log.to`, names with commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def check_installed(names: str) -> None:
    """Checks that the packages of services can be imported, without importing them.

    Args:
        names: the services, with commas.

    Raises:
        UsageError: one is missing; the message says how to install it.
    """
    for service in services_in(names):
        with needed(service, f"log.to={service!r}", "--config.log.to= logs to files alone."):
            if sys.modules.get(service, service) is None or not importlib.util.find_spec(service):
                raise ModuleNotFoundError(name=service)


class Service:
    """A process that logs to one service. Its methods never wait, but for `close`.

    A service that fails is reported once, and the run goes on without it. What the library prints
    is in WORKDIR/loggers/SERVICE.txt, its files are in that folder too unless its own environment
    variables name another place.

    Args:
        name: one of `process.SERVICES`.
        workdir: workdir of the run.
        project: project of the service.
        config: config of the run.
    """

    def __init__(self, name: str, workdir: Path, project: str, config: Mapping[str, Any]) -> None:
        self.name = name
        folder = workdir.absolute() / LOGGERS
        self._output = folder / f"{name}.txt"
        self._reported = self._closed = False
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), name],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    # Ctrl-C and a scheduler's signals are for the training, which ends this.
                    start_new_session=True,
                )
        except OSError as error:
            self._report(str(error))
            return
        self._thread = threading.Thread(target=self._send, name=f"log to {name}", daemon=True)
        self._thread.start()
        run = workdir.absolute().name
        self._put("start", folder=str(folder), run=run, project=project, config=config)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Sends figures by tag."""
        self._put("figures", step=step, figures=figures)

    def text(self, step: int, tag: str, text: str) -> None:
        """Sends a text in Markdown."""
        self._put("text", step=step, tag=tag, text=text)

    def picture(self, step: int, tag: str, path: Path) -> None:
        """Sends a PNG file."""
        self._put("picture", step=step, tag=tag, path=str(path.absolute()))

    def end(self, is_whole: bool = True) -> None:
        """Tells the service that the run is over; `close` waits for it.

        Args:
            is_whole: whether the run ended as it should.
        """
        if not self._closed:
            self._closed = True
            self._put("end", is_whole=is_whole)
            self._lines.put(None)
            self._deadline = time.monotonic() + _PATIENCE

    def close(self) -> None:
        """Waits until the service has everything, until a minute after `end` at most."""
        if self._process is None:
            return
        self.end()
        try:
            status = self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._report(f"it did not finish in {_PATIENCE:g} s")
            return
        except BaseException:  # a signal that ends the command at once
            self._process.kill()
            raise
        if status:
            self._report(self._reason(status))

    def _put(self, kind: str, **values: Any) -> None:
        if self._process is not None and not self._reported:
            self._lines.put(json.dumps({"kind": kind, **values}) + "\n")

    def _send(self) -> None:
        """Writes the lines to the process, as long as it reads them."""
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            with process.stdin as pipe:
                while (line := self._lines.get()) is not None:
                    pipe.write(line.encode())
                    pipe.flush()
        except OSError:
            if not self._closed:  # else `close` reports it
                time.sleep(0.5)  # its last words may still be on their way
                self._report(self._reason(process.poll()))

    def _reason(self, status: int | None) -> str:
        """Returns the last line of what the process printed."""
        try:
            said = self._output.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            said = []
        return said[-1][:_LONGEST] if said else f"its process ended with status {status}"

    def _report(self, reason: str) -> None:
        if not self._reported:
            self._reported = True
            warn(
                f"the run is logged to {self.name} no more: {reason}. It goes on, {METRICS} has "
                f"all figures, and {self._output} what {self.name} printed"
            )
