"""The parts of `benchmarks.gpu`: the commands of each, at full size and small."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.children import Command

TRAJECTORIES = ("one_process", "two_processes", "four_processes_two_negatives")
DEMO_ENCODERS = ("patch", "untrained")


class Setting(NamedTuple):
    """The setting of all parts' commands.

    Attributes:
        work: folder for runs and pictures.
        logs: folder for the output of commands, LOGS/PART.COMMAND.out and .err.
        small: whether to use sizes for a laptop.
        given: folder of JPEG files to use; None = generated ones.
    """

    work: Path
    logs: Path
    small: bool
    given: Path | None = None

    def said(self, part: str, command: str) -> Path:
        """Returns the file with a command's standard output."""
        return self.logs / f"{part}.{command}.out"


class Part(NamedTuple):
    """A part.

    Attributes:
        about: one line, for --help.
        seconds: time limit at full size.
        commands: its commands in order.
        chain: whether a command needs the earlier ones, so that a failure ends the part.
    """

    about: str
    seconds: float
    commands: Callable[[Setting], list[Command]]
    chain: bool = True


def _module(name: str, module: str, *argv: object, **environ: str) -> Command:
    return Command(name, ("-m", module, *map(str, argv)), environ)


def _main(name: str, config: str, workdir: Path, *flags: str, **environ: str) -> Command:
    argv = ("main.py", f"--config=configs/{config}", f"--workdir={workdir}", *flags)
    return Command(name, argv, environ)


def _step(setting: Setting) -> list[Command]:
    flags = "--arch resnet50 --batch 512 --size 224 --queue 16384 --groups 8 --steps 20"
    if setting.small:
        flags = "--arch resnet8 --batch 16 --size 32 --queue 64 --groups 2 --steps 2"
    sizes = [*flags.split(), "--dtype", "bfloat16"]
    # The most informative first, because the last ones are dropped when time runs short.
    peers = ("torch-compiled", "torch-original", "torch")
    asked = [flag for peer in peers for flag in ("--peer", peer)]
    return [
        # Alone, so that a failure of PyTorch does not lose it.
        _module("ours", "benchmarks.step", *sizes, "--profile"),
        _module("peers", "benchmarks.step", *sizes, *asked),
    ]


def _golden(setting: Setting) -> list[Command]:
    def test(trajectory: str) -> Command:
        node = f"tests/methods/test_parity.py::test_one_device[{trajectory}]"
        report = setting.work / "golden" / f"{trajectory}.xml"
        flags = ("--device", "default", "-p", "no:cacheprovider", "-q", f"--junitxml={report}")
        return _module(trajectory, "pytest", node, *flags)

    return [test(trajectory) for trajectory in TRAJECTORIES[: 1 if setting.small else None]]


def _demo(setting: Setting) -> list[Command]:
    """Returns the commands of `make demo`."""
    folder = setting.work / "demo"
    small: dict[str, tuple[str, ...]]
    small = dict.fromkeys(("pretrain", "knn", "linear", "evaluate"), ())
    if setting.small:
        small = {
            "pretrain": ("--config.epochs=1", "--config.data.source=shapes:192"),
            "knn": ("--config.data.source=shapes:400",),
            "linear": ("--config.epochs=2", "--config.data.source=shapes:400"),
            "evaluate": (
                "--config.only=clean,corruption",
                "--config.sets.clean.source=shapes:100",
                "--config.sets.corruption.source=shapes:20",
            ),
        }
    trained = folder / "patch"
    commands = [_main("pretrain", "patch.py:tiny", trained, *small["pretrain"])]
    for encoder in DEMO_ENCODERS:
        origin = trained if encoder == "patch" else f"untrained:{trained}"
        pretrained = f"--config.pretrained={origin}"
        knn, probe, evaluated = (folder / f"{encoder}-{job}" for job in ("knn", "linear", "eval"))
        of_job = "--config.job=knn", pretrained
        labelled = f"--config.label={encoder}", f"--config.pretrained={probe}"
        commands += [
            _main(knn.name, "linear.py:tiny", knn, *of_job, *small["knn"]),
            _main(probe.name, "linear.py:tiny", probe, pretrained, *small["linear"]),
            _main(evaluated.name, "evaluate.py:tiny", evaluated, *labelled, *small["evaluate"]),
        ]
    jobs = ("knn", "linear", "eval")
    runs = [trained] + [folder / f"{encoder}-{job}" for job in jobs for encoder in DEMO_ENCODERS]
    pictures = ["--out", folder / "table.md", "--corruptions", folder / "corruptions.png"]
    pictures += ["--html", folder / "report.html"]
    return [*commands, _module("report", "nsneg_jax", "report", *runs, *pictures)]


def batch_of_job(small: bool) -> int:
    """Returns the batch size of the pre-training, the least number of JPEG files."""
    return 16 if small else 512


def _photographs(setting: Setting) -> list[Command]:
    """Returns the command that makes the folder of photographs, unless it exists."""
    folder = setting.work / "photographs"
    if folder.exists():
        return []
    if setting.given:
        flags = ["--given", setting.given.resolve(), "--count", 20_000]
    elif setting.small:
        flags = ["--count", 48, "--width", 100, "--height", 75]
    else:
        flags = ["--count", 640]
    return [_module("made", "benchmarks.photographs", folder, *flags)]


def _recipe(setting: Setting) -> list[str]:
    """Returns the flags of recipe B on the photographs."""
    flags = [
        f"--config.data.source=folder:{setting.work / 'photographs'}",
        "--config.model.dtype=bfloat16",
        "--config.pictures=False",
        f"--config.batch_size={batch_of_job(setting.small)}",
    ]
    if setting.small:
        flags += [
            "--config.model.arch=resnet8",
            "--config.model.bn_groups=2",
            "--config.data.image_size=32",
            "--config.data.threads=2",
            "--config.moco.queue_size=64",
        ]
    return flags


def _job(setting: Setting) -> list[Command]:
    steps, log = (6, 2) if setting.small else (100, 20)
    flags = (f"--config.total_steps={steps}", f"--config.log_every_steps={log}")
    source = ("--source", f"folder:{setting.work / 'photographs'}")
    alone = ("--seconds", 2, "--size", 32) if setting.small else ("--seconds", 20, "--size", 224)
    batch = batch_of_job(setting.small)
    return [
        *_photographs(setting),
        _main("run", "patch.py", setting.work / "job", *_recipe(setting), *flags),
        _module("input", "benchmarks.input", *source, *alone, "--batch", batch),
    ]


def _start_up(setting: Setting) -> list[Command]:
    flags = ("--out", setting.work / "start-up", "--", "--config=configs/patch.py")
    return [
        *_photographs(setting),
        _module("starts", "benchmarks.first_step", *flags, *_recipe(setting)),
    ]


def _repeat(setting: Setting) -> list[Command]:
    flags = [
        "--config.data.source=shapes:256",
        f"--config.data.image_size={32 if setting.small else 64}",
        f"--config.model.arch={'resnet8' if setting.small else 'resnet50'}",
        "--config.model.dtype=bfloat16",
        "--config.batch_size=64",
        "--config.moco.queue_size=512",
        "--config.optimizer.learning_rate=0.03",
        "--config.pictures=False",
        "--config.total_steps=5",
        "--config.deterministic=True",
    ]
    # The second run must compile for itself.
    environ = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    runs = [setting.work / "repeat" / name for name in ("first", "second")]
    return [
        *(_main(run.name, "patch.py", run, *flags, **environ) for run in runs),
        _module("compared", "benchmarks.same_bits", *runs),
    ]


def _texture(setting: Setting) -> list[Command]:
    flags = ["--batch", 64, "--rounds", 3]
    if setting.small:
        # On CPU each core is a device; all take equally many images.
        flags = ["--batch", len(os.sched_getaffinity(0)), "--size", 64, "--rounds", 1]
    return [_module("synthesis", "benchmarks.texture", *flags)]


def _corruptions(setting: Setting) -> list[Command]:
    flags = "--batch 2 --size 32 --steps 1" if setting.small else "--batch 100 --steps 3"
    return [_module("all", "benchmarks.corruptions", *flags.split())]


# The most valuable first, because the last ones are dropped when time runs short.
PARTS = {
    "step": Part("the training step beside PyTorch's, and its kernels", 400, _step, chain=False),
    "golden": Part("the original's trajectories in float64", 180, _golden, chain=False),
    "demo": Part("`make demo`, up to its table", 240, _demo),
    "job": Part("pre-training from JPEG files, and their input alone", 180, _job),
    "start-up": Part("time to the first step, with an empty and a filled cache", 200, _start_up),
    "repeat": Part("whether two runs end in the same bits", 180, _repeat),
    "texture": Part("texture synthesis", 90, _texture),
    "corruptions": Part("the corruptions at all severities", 150, _corruptions),
}
