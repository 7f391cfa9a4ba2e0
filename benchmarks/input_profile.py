"""Says where our input pipeline spends its time, by sampling this process with py-spy.

`pip install py-spy`; Linux. Processor time: py-spy samples the threads that run, and each thread's
time by the system's clock is shared out by its samples. Time of holding Python's lock: the share of
the samples, at a fixed rate, in which a thread held it. On a busy machine the lock is held longer,
because its holder waits for a core.
"""

import contextlib
import linecache
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.input.loading import prefetch_to_devices

# What loaders give; closing it ends their threads and processes.
Batches = Generator[Any, None, None]

_RATE = 500  # samples per second
_WARM_UP = 5  # batches
_MORE_SECONDS = 60  # for py-spy to start and to write
_FRAME = re.compile(r"(?P<name>.*) \((?P<file>.*?)(:(?P<line>\d+))?\)")
_THREAD = re.compile(r"thread \((\d+)\)")


class Rule(NamedTuple):
    """Says to which stage a frame of the stack belongs.

    Attributes:
        stage: the stage.
        path: part of the path of the frame's file.
        functions: names of functions; none stands for all.
        text: part of the source line that runs; '' for any.
    """

    stage: str
    path: str
    functions: tuple[str, ...] = ()
    text: str = ""


OTHER = "other"
NOT_PYTHON = "threads that are not Python's"

# The innermost frame with a rule decides, and for it the first rule.
RULES = (
    Rule("read", "nsneg_jax/input/sources/"),
    Rule("decode", "nsneg_jax/input/decode.py"),
    Rule("decode", "nsneg_jax/input/shapes/"),  # draws its pictures
    Rule("draw", "nsneg_jax/input/draws.py"),
    Rule(
        "draw",
        "nsneg_jax/input/crops.py",
        ("sample_crop", "sample_texture_crop", "remainder", "_sample"),
    ),
    Rule("cut, copy", "nsneg_jax/input/crops.py", ("resize_fast",), "ImageData("),
    Rule("cut, copy", "nsneg_jax/input/crops.py", ("resize_fast",), "get_buffer("),
    Rule("write into batch", "nsneg_jax/input/crops.py", ("resized_crop",), "out[...]"),
    Rule("cut, copy", "nsneg_jax/input/crops.py", ("resized_crop",)),
    Rule("cut, copy", "/cykooz_resizer/structs.py"),
    Rule(
        "resize",
        "nsneg_jax/input/crops.py",
        ("resize", "resize_fast", "resize_by_pillow", "resize_short"),
    ),
    Rule("order", "nsneg_jax/input/shuffle.py"),
    Rule("order", "nsneg_jax/input/loading.py", ("__getitem__",), "_order["),
    Rule("order", "/grain/_src/python/dataset/transformations/shuffle.py"),
    Rule("device put", "nsneg_jax/input/loading.py", ("_run",), "make_array"),
    Rule("device put", "nsneg_jax/input/loading.py", ("_run",), "block_until_ready"),
    Rule("device put", "benchmarks/input_profile.py", (), "block_until_ready"),
    Rule("hand-over", "nsneg_jax/input/loading.py"),
    Rule("hand-over", "nsneg_jax/input/loaders/"),
    Rule(OTHER, "nsneg_jax/"),
    Rule(OTHER, "benchmarks/"),
    Rule("hand-over", "/grain/"),
    Rule("hand-over", "/threading.py"),
    Rule("hand-over", "/queue.py"),
)

STAGES = (*dict.fromkeys(rule.stage for rule in RULES if rule.stage != OTHER), OTHER)


class Sampled(NamedTuple):
    """What a recording counted.

    Attributes:
        samples: number of samples per (thread's id, stage).
        images: images loaded meanwhile.
        seconds: how long it took.
        used: processor seconds per thread's id.
        used_in_all: processor seconds of the process.
    """

    samples: Counter[tuple[int, str]]
    images: int
    seconds: float
    used: dict[int, float]
    used_in_all: float


def profile(batches: Batches, batch_size: int, seconds: float) -> dict[str, Any]:
    """Loads batches onto the first device and samples the process meanwhile; closes them.

    Args:
        batches: batches with the entries 'query' and 'key', without end, loaded in this process.
        batch_size: images per batch.
        seconds: time to sample, one half for processor time and one for Python's lock.

    Returns:
        {'images_per_second', 'stages': {stage: {'cpu_ms_per_image', 'lock_ms_per_image'}}}; the
        speed is the one while sampling.

    Raises:
        UsageError: py-spy is not installed, or this is not Linux.
        RunError: py-spy could not sample.
    """
    command = _py_spy()
    duration = max(1, round(seconds / 2))
    loaded = prefetch_to_devices(
        batches, jax.sharding.SingleDeviceSharding(jax.devices()[0]), ("query", "key")
    )
    with contextlib.closing(loaded):
        for _ in range(_WARM_UP):
            jax.block_until_ready(next(loaded))
        running, locking = (
            _record([*command, *flags], duration, loaded, batch_size) for flags in ([], ["--gil"])
        )
    cpu = _processor_seconds(running)
    held = Counter[str]()
    for (_, stage), count in locking.samples.items():
        held[stage] += count
    each_held = locking.seconds / (_RATE * duration) / locking.images
    return {
        "images_per_second": round(running.images / running.seconds, 1),
        "stages": {
            stage: {
                "cpu_ms_per_image": round(1000 * cpu[stage] / running.images, 4),
                "lock_ms_per_image": round(1000 * held[stage] * each_held, 4),
            }
            for stage in (*STAGES, NOT_PYTHON)
        },
    }


def table(found: dict[str, Any]) -> str:
    """Formats what `profile` returns as a Markdown table, with a last row for the sums."""
    rows = [(name, *each.values()) for name, each in found["stages"].items()]
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    lines = [
        "| stage | processor time, ms/image | holds Python's lock, ms/image |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {cpu:.3f} | {lock:.3f} |" for name, cpu, lock in rows]
    return "\n".join(lines)


def stage_of(stack: str) -> str:
    """Returns the stage of a stack as py-spy writes it, 'NAME (FILE:LINE);...', outermost first."""
    for frame in reversed(stack.split(";")):
        found = _FRAME.fullmatch(frame)
        if found is None:
            continue
        names = found["name"].split(".")
        line = linecache.getline(found["file"], int(found["line"] or 0))
        for rule in RULES:
            if (
                rule.path in found["file"]
                and (not rule.functions or any(name in rule.functions for name in names))
                and rule.text in line
            ):
                return rule.stage
    return OTHER


def _py_spy() -> list[str]:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("py-spy", path=places)
    if program is None:
        raise UsageError(
            "--profile samples with py-spy, which is not installed. Run pip install py-spy, or "
            "leave --profile out."
        )
    if not hasattr(time, "pthread_getcpuclockid"):
        raise UsageError(f"--profile needs Linux, but this is {sys.platform}. Leave it out.")
    return [program, "record", "--nonblocking", "--full-filenames", "--threads", "--format", "raw"]


def _record(command: list[str], duration: int, batches: Batches, batch_size: int) -> Sampled:
    """Loads batches while py-spy samples this process for `duration` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "stacks", Path(folder) / "log"
        command = [*command, "--pid", str(os.getpid()), "--rate", str(_RATE)]
        command += ["--duration", str(duration), "--output", str(output)]
        with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as child:
            try:
                start, used, in_all = time.monotonic(), _used(), time.process_time()
                images = 0
                while child.poll() is None:
                    if time.monotonic() - start > duration + _MORE_SECONDS:
                        raise RunError(
                            f"py-spy has not ended {_MORE_SECONDS} s after its {duration} s. Lower "
                            "--seconds, or measure on a machine that does less besides."
                        )
                    jax.block_until_ready(next(batches))
                    images += batch_size
                seconds = time.monotonic() - start
            finally:
                child.kill()
        if child.returncode or not output.exists():
            raise RunError(
                "py-spy cannot sample this process. It may lack the right to trace it: try as "
                f"root, or in a container with the capability SYS_PTRACE. It says: "
                f"{log.read_text().strip()}"
            )
        samples = _samples(output.read_text())
    after = _used()
    return Sampled(
        samples,
        images,
        seconds,
        {thread: each - used.get(thread, 0.0) for thread, each in after.items()},
        time.process_time() - in_all,
    )


def _samples(raw: str) -> Counter[tuple[int, str]]:
    found = Counter[tuple[int, str]]()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if not count.isdecimal():  # read while it changed, as nothing is paused for it
            continue
        thread = _THREAD.match(stack)
        found[int(thread[1]) if thread else 0, stage_of(stack)] += int(count)
    return found


def _used() -> dict[int, float]:
    """Returns the processor seconds of each Python thread, by the system's id of the thread."""
    return {
        thread.native_id: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None and thread.native_id is not None  # it has started
    }


def _processor_seconds(sampled: Sampled) -> dict[str, float]:
    """Shares out each thread's processor time by its samples."""
    of_thread = Counter[int]()
    for (thread, _), count in sampled.samples.items():
        of_thread[thread] += count
    shared: dict[str, float] = defaultdict(float)
    for (thread, stage), count in sampled.samples.items():
        shared[stage] += sampled.used.get(thread, 0.0) * count / of_thread[thread]
    # A thread that was never seen running has used next to nothing.
    shared[OTHER] += sum(used for thread, used in sampled.used.items() if thread not in of_thread)
    shared[NOT_PYTHON] = max(0.0, sampled.used_in_all - sum(sampled.used.values()))
    return shared
