"""A long pre-training with many saves: neither memory nor open files nor threads grow.

SOAK_MINUTES=30 python -m pytest tests/jobs/test_soak.py -m slow -s
"""

import os
import signal
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from processes import Processes, flags
from tiny import tiny_config

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
WARM_UP = 0.25  # part of the time that does not count
MIB_PER_MINUTE = 1.0
STEPS_PER_SAVE = 20


class Sample(NamedTuple):
    minutes: float
    mib: float  # resident memory
    files: int
    threads: int


def sample(pid: int, minutes: float) -> Sample:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    resident = int(status["VmRSS"].split()[0]) / 1024
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(minutes, resident, files, int(status["Threads"]))


def slope(samples: list[Sample], values: list[float]) -> float:
    """Least-squares slope per minute."""
    return float(np.polyfit([each.minutes for each in samples], values, 1)[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_nothing_grows(tmp_path, capsys):
    config = tiny_config(
        epochs=10**6, **{"checkpoint.every_steps": STEPS_PER_SAVE, "log_every_steps": 20}
    )
    said: deque[str] = deque(maxlen=50)
    argv = [*flags(config, "patch"), f"--workdir={tmp_path / 'run'}"]
    with Processes(1, 1, argv) as processes:
        (process,) = processes.running
        for pipe in (process.stdout, process.stderr):  # which would fill up, and the run would wait
            threading.Thread(target=said.extend, args=(pipe,), daemon=True).start()
        checkpoints = tmp_path / "run" / "checkpoints"
        while not list(checkpoints.glob("[0-9]*")):
            assert process.poll() is None, "".join(said)
            time.sleep(0.1)
        start, samples = time.monotonic(), []
        while (minutes := (time.monotonic() - start) / 60) < MINUTES:
            assert process.poll() is None, "".join(said)
            samples.append(sample(process.pid, minutes))
            time.sleep(min(1.0, MINUTES * 60 / 100))
        steps = max(int(path.name) for path in checkpoints.glob("[0-9]*") if path.name.isdecimal())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 75, "".join(said)

    warm = [each for each in samples if each.minutes >= WARM_UP * MINUTES]
    first, last = warm[: len(warm) // 3], warm[-len(warm) // 3 :]
    grown = slope(warm, [each.mib for each in warm])
    files, threads = (
        [float(np.median([each[index] for each in part])) for part in (first, last)]
        for index in (2, 3)
    )
    with capsys.disabled():
        print(
            f"\n{MINUTES:g} minutes, {steps:,} steps, {steps // STEPS_PER_SAVE:,} saves; after "
            f"{WARM_UP * MINUTES:g} minutes: memory {warm[0].mib:.0f} to {warm[-1].mib:.0f} MiB, "
            f"{grown:+.2f} MiB per minute; open files {files[0]:g} to {files[1]:g} (largest "
            f"{max(each.files for each in warm)}); threads {threads[0]:g} to {threads[1]:g}"
        )
    assert grown < MIB_PER_MINUTE
    assert abs(files[1] - files[0]) <= 2 and abs(threads[1] - threads[0]) <= 2
