"""Chains of real commands: order, sharing, failure, and a signal in the middle."""

import os
import signal
import sys
import threading
import time

import pytest

from nsneg_jax.comparison.running import chains
from nsneg_jax.errors import RunError


@pytest.fixture
def link(tmp_path):
    """A link that runs a Python program in the test's folder; done when file `name` is there."""

    def make(name, program=""):
        program = f"import pathlib, sys, time\n{program}\npathlib.Path({name!r}).touch()"
        command = [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{program}"]
        return chains.Link(name, command, tmp_path / f"{name}.log", (tmp_path / name).exists)

    return make


def test_links_in_order_and_chains_side_by_side(link, tmp_path):
    """`c` waits for `d` of the other chain, so one after the other would never end."""
    wait = "while not pathlib.Path('d').exists(): time.sleep(0.05)"
    check = "assert pathlib.Path('a').exists()"
    ran = chains.run([[link("a"), link("b", check), link("c", wait)], [link("d")]], processes=2)
    assert ran is None
    assert all((tmp_path / name).exists() for name in "abcd")


def test_done_links_are_not_started_and_one_worker_does_all(link, tmp_path):
    (tmp_path / "a").touch()
    order = "open('order', 'a').write(sys.argv[0] + {!r})"
    links = [[link("a", order.format("a")), link("b", order.format("b"))], [link("c")]]
    chains.run(links, processes=1)
    assert (tmp_path / "order").read_text() == "-cb"
    assert (tmp_path / "c").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are shared out on Linux")
def test_cores_are_shared_out(link, tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core only")
    save = "import os; open('{}-cores', 'w').write(str(sorted(os.sched_getaffinity(0))))"
    # they wait for each other, so that neither worker gets both
    meet = "\nwhile not pathlib.Path('{}-cores').exists(): time.sleep(0.05)"
    both = [[link("a", save.format("a") + meet.format("b"))]]
    both += [[link("b", save.format("b") + meet.format("a"))]]
    chains.run(both, processes=2)
    shares = [set(eval((tmp_path / f"{name}-cores").read_text())) for name in "ab"]
    assert shares[0] | shares[1] == set(cores) and not shares[0] & shares[1]


def test_failure_shows_the_log_and_stops_the_others(link, tmp_path):
    start = time.monotonic()
    broken = link("broken", "time.sleep(0.5); print('what went wrong'); sys.exit(2)")
    with pytest.raises(RunError, match=r"broken ended with status 2.*broken\.log.*what went wrong"):
        chains.run([[broken, link("after")], [link("long", "time.sleep(60)")]], processes=2)
    assert time.monotonic() - start < 30
    assert not (tmp_path / "after").exists() and not (tmp_path / "long").exists()


@pytest.mark.parametrize("status", [75, 0])
def test_a_command_that_was_stopped_is_no_end(link, status):
    with pytest.raises(RunError, match="stopped was stopped before its end"):
        chains.run([[link("stopped", f"print('saved'); sys.exit({status})")]], processes=1)


def test_signal_is_handed_on_and_the_command_waited_for(link, tmp_path):
    program = (
        "import signal\n"
        "def stop(*_):\n    time.sleep(0.5); open('saved', 'w').write('yes'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\nopen('ready', 'w').close()\ntime.sleep(60)"
    )

    def send():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    received = chains.run([[link("a", program), link("b")]], processes=1)
    thread.join()
    assert received == "SIGTERM"
    assert (tmp_path / "saved").read_text() == "yes"
    assert not (tmp_path / "b").exists()


def test_environment(link, tmp_path):
    chains.run(
        [[link("a", "import os; open('value', 'w').write(os.environ['GIVEN'])")]],
        processes=1,
        environment={"GIVEN": "x"},
    )
    assert (tmp_path / "value").read_text() == "x"
