"""A crew that is closed leaves nobody waiting for rows."""

import threading

import numpy as np
import pytest

from nsneg_jax.input.loaders.crew import Crew, Rows

ROWS = Rows(memory=None, arrays={}, start=0, wanted=np.arange(2), place=0, words=np.zeros(2))


class Held:
    """An event whose setter comes late."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event
        self.clear = event.clear

    def set(self) -> None:
        pass


class Never:
    """A hand that must not be asked."""

    def fill(self, rows):
        raise AssertionError("asked to fill rows after the end")

    def reading(self):
        return None

    def close(self):
        pass


@pytest.mark.parametrize("when", ["before", "handed over", "after"])
def test_rows_not_begun_are_cancelled(when):
    """Else the thread that waits for them keeps the process from ending."""
    crew = Crew(1, Never, processors=1)
    (member,) = crew._idle
    if when == "before":
        crew._idle.clear()  # nobody takes them
    member.woken = Held(member.woken)
    if when == "after":
        crew.close(seconds=0)
    future = crew.submit(ROWS)
    assert future.cancelled() == (when == "after")
    assert (member.task is not None) == (when == "handed over")
    crew.close(seconds=0)
    member.woken.event.set()
    for thread in crew._threads:
        thread.join(5)
        assert not thread.is_alive()
    assert future.cancelled()
