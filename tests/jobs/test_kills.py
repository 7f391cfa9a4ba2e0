"""Drills: SIGKILL at random moments of every command that saves, and the same files at the end.

The slow ones are many; NSNEG_DRILLS scales their numbers: 0.1 makes a tenth of them.
"""

import json
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from drills import FAST, LONG, end_state, number
from photo_folder import write_photos
from processes import ROOT, flags, start
from tiny import checkpoint_of_untrained, tiny_config, tiny_linear_config

from configs import evaluate
from nsneg_jax.input.shapes.source import CLASSES


class Job(NamedTuple):
    """A command: from (output folder, number of workers), and what it leaves to be compared."""

    command: Callable[[Path, int], list[str]]
    left: Callable[[Path], object]


def results_left(workdir: Path) -> dict:
    results = json.loads((workdir / "results.json").read_text())
    results.pop("kept", None)  # which parts an earlier start has done
    return results


def files_left(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def of_main(argv: list[str], workdir: Path) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *argv, f"--workdir={workdir}"]


def pretraining(_: Path) -> Job:
    def command(out: Path, workers: int) -> list[str]:
        config = tiny_config(**LONG, **{"data.workers": workers})
        return of_main(flags(config, "patch"), out)

    return Job(command, end_state)


def probe(folder: Path) -> Job:
    pretrained = checkpoint_of_untrained(folder / "pretrained")

    def command(out: Path, workers: int) -> list[str]:
        config = tiny_linear_config(pretrained, epochs=60, **{"data.workers": workers})
        return of_main(flags(config, "linear"), out)

    return Job(command, lambda out: [end_state(out), results_left(out)])


def evaluation(folder: Path) -> Job:
    probe_job = probe(folder)
    classifier = folder / "classifier"
    run_to_end(probe_job.command(classifier, 0), folder / "log")
    for corruption in ("gaussian_noise", "fog"):
        for severity in range(1, 6):
            names = [f"{name}/{i}.png" for name in CLASSES for i in range(2)]
            write_photos(folder / "released", names, f"{corruption}/{severity}")

    def command(out: Path, workers: int) -> list[str]:
        config = evaluate.get_config("tiny")
        values = {"pretrained": str(classifier), "batch_size": 16, "data.image_size": 16}
        values |= {f"sets.{name}.source": f"shapes/{name}:300" for name in ("sketch", "stylized")}
        values |= {"sets.clean.source": "shapes:300", "data.workers": workers}
        values |= {"sets.corruption.source": f"folder:{folder / 'released'}"}
        values |= {"sets.corruption.generate": False, "sets.corruption.split": ""}
        config.update_from_flattened_dict(values)
        return of_main(flags(config, "evaluate"), out)

    return Job(command, results_left)


def textures(folder: Path) -> Job:
    source = write_photos(folder / "source")

    def command(out: Path, _: int) -> list[str]:
        options = ["--source", str(source), "--out", str(out), "--batch", "1", "--size", "64"]
        return [sys.executable, "-m", "data.texture", *options]

    return Job(command, files_left)


def packing(folder: Path) -> Job:
    names = [f"{name}/{i}.jpg" for name in ("ant", "bee", "cat") for i in range(100)]
    source = write_photos(folder / "source", names)

    def command(out: Path, _: int) -> list[str]:
        options = ["--source", str(source), "--out", str(out), "--splits", "train"]
        return [sys.executable, "-m", "data.arrayrecord", *options, "--shards", "30"]

    return Job(command, files_left)


def run_to_end(command: list[str], log: Path) -> None:
    with log.open("w") as said:
        status = start(command, stdout=said, stderr=said).wait(600)
    assert status == 0, log.read_text()


def is_saving(out: Path) -> bool:
    return any(out.glob("checkpoints/*tmp*"))


def drill(job: Job, folder: Path, kills: int, workers: int, seed: int, saves: bool) -> dict:
    """Kills the command until it has been killed often enough; compares all that ends.

    With `saves`, every other kill waits for a save to begin. Returns counts.
    """
    rng = random.Random(seed)
    log = folder / "log"
    run_to_end(job.command(folder / "warm", workers), log)  # fills the cache of programs
    began = time.monotonic()
    run_to_end(job.command(folder / "whole", workers), log)
    seconds, expected = time.monotonic() - began, job.left(folder / "whole")
    assert job.left(folder / "warm") == expected
    counts = {"kills": 0, "inside a save": 0, "ends": 0}
    while counts["kills"] < kills:
        out = folder / str(counts["ends"])
        while counts["kills"] < kills:
            in_save = saves and counts["kills"] % 2 == 0
            with log.open("w") as said:
                process = start(job.command(out, workers), stdout=said, stderr=said)
            # Later in the run than not: before its first step there is nothing to lose.
            until = time.monotonic() + rng.uniform(0.3, 1) * seconds
            while process.poll() is None and time.monotonic() < until:
                if in_save and time.monotonic() > until - 0.3 * seconds and is_saving(out):
                    break
                time.sleep(0.001)
            saving = is_saving(out)
            time.sleep(rng.uniform(0, 0.005) if saving else 0)
            process.kill()
            if process.wait() != -signal.SIGKILL:
                assert process.returncode == 0, log.read_text()
                break
            counts["kills"] += 1
            counts["inside a save"] += saving
        run_to_end(job.command(out, workers), log)
        counts["ends"] += 1
        assert job.left(out) == expected
    return counts


MANY = {pretraining: 50, probe: 10, evaluation: 10, textures: 20, packing: 20}
DRILLS = [
    pytest.param(make, kills, workers, marks=pytest.mark.slow)
    for make, kills in MANY.items()
    for workers in ((0,) if make in (textures, packing) else (0, 2))
]


@pytest.mark.parametrize(("make", "kills", "workers"), [(packing, FAST, 0), *DRILLS])
def test_a_killed_command_leaves_the_same(tmp_path, capsys, make, kills, workers):
    seed = kills + workers
    if kills > FAST:
        kills = number(kills)
    counts = drill(make(tmp_path), tmp_path, kills, workers, seed, make is pretraining)
    with capsys.disabled():
        said = ", ".join(f"{n} {name}" for name, n in counts.items())
        print(f"\n{make.__name__}, {workers} workers: seed {seed}; {said}")
    if make is pretraining:
        assert counts["inside a save"] >= kills // 4
