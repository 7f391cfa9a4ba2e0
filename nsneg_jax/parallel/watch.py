"""Watches the processes of a run: when one dies or fails, the others report it and stop.

A process that waits for a dead one in a collective would hang. So each gives a sign of life to the
run's coordination service, which is part of process 0. Process 0 looks for missing signs, and every
process looks for a notice that another has stopped.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from nsneg_jax.errors import paragraph

BEAT = 1.0  # seconds between signs of life
PATIENCE = 20.0  # seconds without one, after which a process counts as dead
_LINGER = 10.0  # seconds that process 0, which all depend on, waits for the others to exit
_ALIVE, _STOPPED, _LEFT = "nsneg/alive/", "nsneg/stopped/", "nsneg/left/"
GO_ON = "Everything up to the last checkpoint is safe; run the same command to resume."


class Watch:
    """Exchanges signs of life and notices of failure in a separate thread while entered.

    Args:
        client: client of the coordination service.
        hosts: host names of all processes, by number.
        index: number of this process.
    """

    def __init__(self, client: Any, hosts: Sequence[str], index: int) -> None:
        self._client = client
        self._hosts = hosts
        self._index = index
        self._lock = threading.Lock()  # held by the thread that ends the process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._on_abort = _ABORT_HANDLER(self._lost)  # keeps it from being collected
        _set_handler(signal.SIGABRT, self._on_abort)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def process(self, index: int) -> str:
        """Returns the name of a process in messages."""
        return f"process {index} on {self._hosts[index]}"

    def fail(self, error: BaseException, status: int, text: str) -> None:
        """Reports an error of this process to the others, and exits; does not return.

        Args:
            error: the error.
            status: exit status of all processes.
            text: the message of this process.
        """
        if isinstance(error, jax.errors.JaxRuntimeError):
            # Most likely another process is gone, which takes a while to establish.
            time.sleep(PATIENCE + 5 * BEAT)
        with self._lock:
            said = f"{str(error).strip() or type(error).__name__}"
            notice = {"status": status, "text": f"{self.process(self._index)} stopped: {said}"}
            try:
                self._client.key_value_set(f"{_STOPPED}{self._index}", json.dumps(notice))
                time.sleep(BEAT)
                others = self._notices()
            except jax.errors.JaxRuntimeError:
                others = {}
            # An error that several processes raise is reported once.
            known = any(said in each["text"] for i, each in others.items() if i < self._index)
            self._leave(status, "" if known else text, others)

    def _watch(self) -> None:
        beats = 0
        seen: dict[int, tuple[str, float]] = {}
        while not self._over.wait(BEAT):
            beats += 1
            try:
                self._client.key_value_set(
                    f"{_ALIVE}{self._index}", str(beats), allow_overwrite=True
                )
                if self._index == 0:
                    self._look_for_missing(seen)
                notices = self._notices()
            except jax.errors.JaxRuntimeError:
                if not self._over.is_set():
                    with self._lock:
                        self._lost()
                return
            if notices:
                with self._lock:
                    self._stop_with(notices)

    def _look_for_missing(self, seen: dict[int, tuple[str, float]]) -> None:
        """Leaves a notice for each process without signs of life for too long."""
        now = time.monotonic()
        beats = self._entries(_ALIVE)
        for index in range(len(self._hosts)):
            beat, since = seen.setdefault(index, ("", now))
            if beats.get(index, "") != beat:
                seen[index] = beats[index], now
            elif now - since > PATIENCE:
                text = f"{self.process(index)} has died, or cannot be reached: no sign of it for "
                text += f"{PATIENCE:.0f} seconds. All stop"
                notice = {"status": 1, "text": text, "dead": True}
                self._client.key_value_set(
                    f"{_STOPPED}{index}",
                    json.dumps(notice),
                    allow_overwrite=True,
                )

    def _stop_with(self, notices: dict[int, dict]) -> None:
        _, notice = min(notices.items())
        told = notice["text"].rstrip(".") + "."
        if notice["status"] != 2:
            told += " " + GO_ON
        self._leave(notice["status"], paragraph(RuntimeError(told)), notices)

    def _lost(self, *_: object) -> None:
        """Exits because process 0 is gone, and with it the coordination service."""
        told = (
            f"{self.process(0)} has died, or cannot be reached, and with it the service that "
            f"connects the processes, so {self.process(self._index)} stops. {GO_ON}"
        )
        if self._index == 0:
            told = f"JAX ended {self.process(0)} for the reason shown above. {GO_ON}"
        _say(paragraph(RuntimeError(told)))
        os._exit(1)

    def _leave(self, status: int, text: str, notices: Mapping[int, dict]) -> None:
        if text:
            _say(text)
        try:
            self._client.key_value_set(f"{_LEFT}{self._index}", "", allow_overwrite=True)
            end = time.monotonic() + _LINGER
            dead = {index for index, notice in notices.items() if "dead" in notice}
            waited_for = set(range(1, len(self._hosts))) - dead
            while self._index == 0 and time.monotonic() < end:
                if waited_for <= self._entries(_LEFT).keys():
                    break
                time.sleep(BEAT / 10)
        except jax.errors.JaxRuntimeError:
            pass
        # Not sys.exit, in which JAX would wait for the others to exit too.
        os._exit(status)

    def _notices(self) -> dict[int, dict]:
        return {index: json.loads(text) for index, text in self._entries(_STOPPED).items()}

    def _entries(self, folder: str) -> dict[int, str]:
        return {
            int(name.rpartition("/")[2]): text
            for name, text in self._client.key_value_dir_get(folder)
        }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()


# JAX ends a process that loses process 0 by abort(), in a thread that Python's signal handlers do
# not reach. Its callback cannot be used from Python: the status it receives has no conversion,
# which ends the process too.
_ABORT_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


def _set_handler(number: int, handler: Any) -> None:
    function = ctypes.CDLL(None).signal
    function.argtypes = [ctypes.c_int, _ABORT_HANDLER]
    function.restype = ctypes.c_void_p
    function(int(number), handler)
