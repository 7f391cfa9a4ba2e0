"""Do patch negatives help on these pictures? nsneg compare FOLDER --budget 1h

Trains MoCo (or another --method) without negatives and with patch negatives on a data set with
classes, with several seeds each and everything else equal, in as many steps as the budget of time
allows; probes and tests them on versions of held-out pictures; and answers yes, no or undecided.
WORKDIR/compare.html is the page, compare.json has the figures. Give the same command again to go
on. docs/compare.md says how the answer is found.
"""

import argparse
import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from nsneg_jax.comparison import outcome as outcomes
from nsneg_jax.comparison import planning
from nsneg_jax.comparison.measuring import measure
from nsneg_jax.comparison.outcome import Outcome, complete_seeds
from nsneg_jax.comparison.page import page
from nsneg_jax.comparison.pictures import data_of, prepare
from nsneg_jax.comparison.planning import Measured, Plan
from nsneg_jax.comparison.running.stages import accelerator, at_a_time, carry_out
from nsneg_jax.comparison.runs import Setting, runs_of, stages_of
from nsneg_jax.comparison.variants import METHODS, MOCO, label
from nsneg_jax.errors import Stopped, UsageError
from nsneg_jax.files import check_writable, json_object, user_path, write_json, write_text
from nsneg_jax.parallel.compilation_cache import keep_programs
from nsneg_jax.training.progress import duration

PLAN, SPENT = "plan.json", "spent.json"
RESULT, PAGE = "compare.json", "compare.html"

_MOST = {False: 4000, True: 20_000}  # training pictures, by whether there is an accelerator
_KEEP_EVERY = 10.0  # seconds between writes of the time spent
_FOR_THE_PAGE = 10.0  # seconds
_FEWEST_SEEDS = 2
_LEAST_RUNS = 2 * _FEWEST_SEEDS


class Clock:
    """Counts the time that a comparison has taken over all its starts.

    Args:
        path: file that keeps it.
        budget: seconds in all.
    """

    def __init__(self, path: Path, budget: float) -> None:
        self._path = path
        self._start = self._kept = time.monotonic()
        self._before = float(json_object(path).get("seconds", 0.0))
        self.budget = budget

    @property
    def spent(self) -> float:
        """Seconds so far, those of earlier starts included."""
        return self._before + time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds until the end of the budget; below 0 after it."""
        return self.budget - self.spent

    @property
    def deadline(self) -> float:
        """Reading of `time.monotonic` at which trainings have to end."""
        return time.monotonic() + self.left - _FOR_THE_PAGE

    def keep(self) -> None:
        """Writes the time to the file."""
        self._kept = time.monotonic()
        write_json(self._path, {"seconds": round(self.spent, 1)})

    def look(self) -> None:
        """Does `keep` from time to time."""
        if time.monotonic() - self._kept > _KEEP_EVERY:
            self.keep()


def compare(
    spec: str, workdir: Path, budget: float, most: int | None = None, method: str = MOCO
) -> Outcome:
    """Compares a method with and without patch negatives on a data set; see the module.

    Args:
        spec: data set, see `open_source`; its pictures need classes.
        workdir: folder for all that is written; a comparison that was stopped there goes on.
        budget: seconds, over all starts.
        most: most training pictures; None leaves it to the machine.
        method: a name of `variants.METHODS`.

    Raises:
        UsageError: the data set cannot be used, the workdir has another comparison, or the budget
            is too small.
        RunError: a command failed.
        Stopped: a signal, or the end of the budget, came before two seeds were complete.
    """
    check_writable(workdir, "--workdir", is_folder=True)
    clock = Clock(workdir / SPENT, budget)
    kept = _claimed(workdir, {"data": spec, "images": most, "method": method})
    if "device" not in kept:
        kept["device"] = accelerator()
    large = bool(kept["device"])
    most = most or _MOST[large]
    try:
        plan, setting, about = _planned(kept, spec, workdir, clock, most, large)
        runs = runs_of(plan.variants, plan.seeds)
        processes = at_a_time(len(runs), kept["device"])
        stages = {run.name: stages_of(run, setting) for run in runs}
        if not all(stage.link.done() for of_run in stages.values() for stage in of_run):
            print(_described(plan, about, setting, processes, clock), flush=True)
            if clock.deadline > time.monotonic():
                carry_out(stages, processes, clock.deadline, clock.look)
        seeds = complete_seeds(plan.variants, plan.seeds, workdir)
        if len(seeds) < _FEWEST_SEEDS:
            raise Stopped(
                f"the budget of {duration(budget)} is over with {len(seeds)} of {len(plan.seeds)} "
                f"seeds complete, of which {_FEWEST_SEEDS} are needed; everything is saved. Give "
                "the same command with a larger --budget to go on"
            )
        found = outcomes.read(plan.variants, seeds, workdir)
    finally:
        clock.keep()
    times = _times(kept, setting, processes, clock)
    write_json(
        workdir / RESULT,
        {
            "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **outcomes.plain(found),
            "pictures": about,
            "plan": plan.to_json(),
            "caution": planning.caution(plan),
            "times": times,
        },
    )
    write_text(
        workdir / PAGE, page(found, plan, setting.sizes, about, times, workdir, setting.pictures)
    )
    return found


def main(argv: Sequence[str]) -> int:
    """`nsneg compare`; returns the exit status, as `nsneg_jax.cli.main`."""
    parser = argparse.ArgumentParser(
        prog="nsneg compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "data",
        metavar="FOLDER",
        help="FOLDER/CLASS/NAME.jpg, or with train/ and val/; another data set, such as "
        "hf:PATH; or 'shapes', the built-in pictures",
    )
    parser.add_argument("--budget", default="1h", help="time for all of it: 20m, 1h, 1h30m (1h)")
    parser.add_argument(
        "--workdir",
        type=user_path,
        help="folder for all that is written (runs/compare-NAME, with the method if it is another)",
    )
    parser.add_argument(
        "--images",
        type=int,
        help="most pictures to train on (4000; 20000 with a GPU or TPU)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=MOCO,
        help="method that is trained with and without the negatives (moco)",
    )
    arguments = parser.parse_args(argv)
    budget = planning.budget(arguments.budget)
    if arguments.images is not None and arguments.images < 1:
        raise UsageError(f"--images is {arguments.images}, but must be a number above 0.")
    spec = data_of(arguments.data)
    named = _name(spec) + ("" if arguments.method == MOCO else f"-{arguments.method}")
    workdir = arguments.workdir or Path("runs") / f"compare-{named}"
    jax.config.update("jax_platforms", "cpu")  # the accelerator is for the runs
    keep_programs()
    found = compare(spec, workdir, budget, arguments.images, arguments.method)
    print(f"\n{outcomes.markdown(found)}\n\n{found.sentence}\n")
    print(f"done: {workdir / PAGE} has the pictures, {workdir / RESULT} the figures")
    return 0


def _claimed(workdir: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Returns what an earlier start in the workdir has found out, or what is asked."""
    kept = json_object(workdir / PLAN)
    if kept:
        kept.setdefault("method", MOCO)  # of versions without other methods
    for name, value in asked.items():
        if kept and kept.get(name) != value:
            raise UsageError(
                f"{workdir} has a comparison whose {name} is {kept.get(name)!r}, not {value!r}. "
                "Give the same to go on with it, or another --workdir for a new one."
            )
    return kept or asked


def _planned(
    kept: dict[str, Any], spec: str, workdir: Path, clock: Clock, most: int, large: bool
) -> tuple[Plan, Setting, dict[str, Any]]:
    """Returns the plan of the first start, or makes it: measures, and chooses by the budget."""
    compared = METHODS[kept["method"]]

    def setting_of(side: int) -> tuple[Setting, dict[str, Any]]:
        pictures = workdir / f"pictures-{side}"
        about = prepare(spec, side, most, pictures)
        sizes = planning.sizes(about["train"], compared.keys)
        return Setting(workdir, pictures, side, about["train"], sizes, 0, large), about

    def measured(setting: Setting) -> Measured:
        by_side = kept.setdefault("measured", {})
        side = str(setting.side)
        if side not in by_side:
            first = f"{label(compared.baseline)} and patch negatives"
            print(f"measuring  {setting.side} px, {first}", flush=True)
            apart = setting._replace(workdir=workdir / f"measured-{side}")
            found = measure(compared, apart, at_a_time(_LEAST_RUNS, kept["device"]), clock.deadline)
            by_side[side] = found._asdict()
            write_json(workdir / PLAN, kept)
        return Measured(**by_side[side])

    if "plan" not in kept:
        sides = planning.SIDES[large]
        setting, about = setting_of(sides[0])
        write_json(workdir / PLAN, kept)
        processes = at_a_time(_LEAST_RUNS, kept["device"])
        costs, steps = measured(setting), setting.sizes.per_epoch
        side = planning.largest_side(compared, costs, clock.left, processes, steps, sides)
        if side != setting.side:
            setting, about = setting_of(side)
            costs = measured(setting)
        plan = planning.choose(compared, costs, clock.left, processes, steps, side)
        if plan is None:
            raise planning.too_small(costs, processes, steps)
        kept["plan"] = plan.to_json()
        write_json(workdir / PLAN, kept)
    plan = Plan.from_json(kept["plan"])
    setting, about = setting_of(plan.side)
    return plan, setting._replace(epochs=plan.epochs), about


def _described(
    plan: Plan, about: dict[str, Any], setting: Setting, processes: int, clock: Clock
) -> str:
    sizes, caution = setting.sizes, planning.caution(plan)
    return "\n".join(
        (
            f"pictures   {about['train']:,} to train on, {about['choose']:,} to choose on, "
            f"{about['test']:,} to test on; {len(about['classes'])} classes, {plan.side} px",
            f"plan       {', '.join(label(v) for v in plan.variants)}; "
            f"{len(plan.seeds)} seeds; {plan.steps:,} steps of {sizes.batch} images, "
            f"{plan.epochs} epochs",
            *([f"note       {caution}"] if caution else []),
            f"time       {duration(plan.seconds)} expected for all runs, {processes} at a time; "
            f"{duration(clock.left)} of {duration(clock.budget)} left",
            f"logs       {setting.workdir}/*/log.txt",
        )
    )


def _times(kept: dict[str, Any], setting: Setting, processes: int, clock: Clock) -> dict[str, str]:
    measured = Measured(**kept["measured"][str(setting.side)])
    steps = ", ".join(f"{label(name)} {each:.3f} s" for name, each in measured.step.items())
    return {
        "time": f"{duration(clock.spent)} of a budget of {duration(clock.budget)}",
        "per step": f"{steps}, measured with {min(processes, 2)} at a time",
        "hardware": kept["device"] or f"{os.cpu_count()} CPU cores",
    }


def _name(spec: str) -> str:
    """Returns a name for the workdir: 'flowers' for 'folder:/data/flowers'."""
    last = spec.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last.removeprefix("folder:")) or "pictures"
