"""Catches signals that ask a run to stop; it then finishes its step, saves and exits with 75."""

import os
import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignals:
    """Makes SIGTERM and the first SIGINT set `received` instead of ending the process.

    Schedulers announce a preemption by SIGTERM, which JAX ignores without `jax.distributed`. With
    several processes JAX handles SIGTERM and stops all of them at the same step; `received` then
    holds only another signal sent to this process.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        signals = [signal.SIGINT]
        if jax.process_count() == 1:
            signals.append(signal.SIGTERM)
        self._before = {number: signal.signal(number, self._receive) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def request(self, reason: str) -> None:
        """Asks the run to stop as a signal does; any thread may call it."""
        if self.received is None:
            self.received = reason
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)  # JAX passes it on to the other processes

    def may_give_up(self) -> bool:
        """Returns whether to stop at once, where a run waits for its input between two steps.

        Several processes must stop after the same step, so none of them may stop by itself.
        """
        return bool(self.received) and jax.process_count() == 1

    def stop_after(self, step: int) -> bool:
        """Returns whether to stop; every process must call it after every step."""
        if jax.process_count() == 1:
            return bool(self.received)
        return multihost_utils.reached_preemption_sync_point(step)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX passes it on to the other processes


def stopped(received: str | None, done: int, total: int, unit: str = "step") -> str:
    """Returns the message of a run that stopped early; `received` comes from `StopSignals`."""
    return (
        f"stopped by {received or 'a signal'} after {unit} {done} of {total}, with everything "
        "saved; run the same command to resume"
    )
