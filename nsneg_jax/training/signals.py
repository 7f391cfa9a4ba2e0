"""Signals that ask a run to stop: it finishes its step, saves, and ends."""

import os
import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignals:
    """While entered, SIGTERM and the first SIGINT set `received` instead of ending the process.

    Without `jax.distributed` JAX does not see SIGTERM, which is how schedulers announce a
    preemption; with several processes JAX takes it, has all of them stop at the same step, and
    `received` says only what came to this one, SIGTERM excepted.
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

    def stop_after(self, step: int) -> bool:
        """Whether to stop; to be asked after every step, by every process alike."""
        if jax.process_count() == 1:
            return bool(self.received)
        return multihost_utils.reached_preemption_sync_point(step)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX tells the other processes of


def stopped(received: str | None, done: int, total: int, unit: str = "step") -> str:
    """What a run says that stopped before its end; `received` as of `StopSignals`."""
    return (
        f"stopped by {received or 'a signal'} after {unit} {done} of {total}, with everything "
        "saved; the same command goes on from there"
    )
