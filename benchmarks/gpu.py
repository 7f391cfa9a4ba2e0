"""Runs all GPU measurements in one command of some minutes; prints a table last.

    python -m benchmarks.gpu --out runs/gpu
    python -m benchmarks.gpu --parts step,golden --minutes 8
    python -m benchmarks.gpu --small                    # the same script at small sizes, on CPU

Each part runs in separate processes with a time limit. A part that fails or takes too long is
reported, and the others still run. Parts run in the order of --help, as far as --minutes allow; the
table names those left out, for another call with --parts. The folder --out gets `table.md`, the
printed table; `results.json`, the same as data, with the state of each command; `kernels.md`, the
most expensive kernels of the step; `logs/PART.COMMAND.out` and `.err`, the output of each command;
`work/`, runs and pictures, which you may delete. Table and results are written after each part.

Compiled programs go to the folder JAX_COMPILATION_CACHE_DIR, by default OUT/cache. Exit status: 0
all requested parts are done, whether or not targets are reached, 1 a part is not, 2 a user's
mistake.
"""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import children
from benchmarks.gpu_parts import PARTS, Part, Setting, batch_of_job
from benchmarks.gpu_rows import Row, kernel_lines, rows_of, table
from benchmarks.photographs import jpeg_files
from nsneg_jax.errors import RunError, UsageError, tell
from nsneg_jax.files import write_json, write_text

# Too short for any part.
_LEAST_SECONDS = 5.0
_PROBE_SECONDS = 120.0
_PROBE = """
import importlib.metadata, json, platform
import jax
found = {"platform": jax.devices()[0].platform, "device": jax.devices()[0].device_kind}
found |= {"devices": jax.device_count(), "python": platform.python_version()}
for name in ("jax", "jaxlib", "flax", "torch"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found, allow_nan=False))
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: a value is out of range.
    """
    listed = "\n".join(f"  {name:12} {part.about}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Runs all GPU measurements; prints a table last.",
        epilog=f"parts, in their order:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="new folder for results")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--parts", help="only these, with commas")
    parser.add_argument(
        "--photographs", type=Path, help="JPEG files to train on; by default generated ones"
    )
    parser.add_argument("--small", action="store_true", help="small sizes, to try it on CPU")
    options = parser.parse_args(argv)
    names = list(PARTS) if options.parts is None else options.parts.split(",")
    for name in names:
        if name not in PARTS:
            raise UsageError(f"--parts has {name!r}, but must be of {', '.join(PARTS)}.")
    options.parts = [name for name in PARTS if name in names]
    if options.minutes <= 0:
        raise UsageError(f"--minutes is {options.minutes:g}, but must be greater than 0.")
    if options.out.exists() and any(options.out.iterdir()):
        raise UsageError(f"--out is {options.out}, which is not empty. Give a new folder.")
    if options.photographs:
        found, batch = len(jpeg_files(options.photographs)), batch_of_job(options.small)
        if found < batch:
            raise UsageError(
                f"--photographs is {options.photographs}, which has {found} JPEG files, but must "
                f"have at least {batch}, one batch. Give another folder, or leave it out."
            )
    return options


class Measurement:
    """One call of the command: the device, and the figures so far.

    Args:
        out: folder for all files.
        seconds: time for all parts together.
        setting: setting of the parts' commands.
    """

    def __init__(self, out: Path, seconds: float, setting: Setting):
        self.out = out
        self.setting = setting
        self.end = time.monotonic() + seconds
        self._cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(out / "cache")
        self.about: dict[str, Any] = {}
        self.parts: dict[str, dict[str, Any]] = {}
        self.rows: list[tuple[str, Row]] = []

    def probe(self) -> None:
        """Finds the devices in a separate process, because JAX takes their memory.

        Raises:
            RunError: JAX does not start.
            UsageError: there is no accelerator for the full sizes.
        """
        command = children.Command("device", ("-c", _PROBE))
        with tempfile.TemporaryDirectory() as folder:
            ended = children.run(command, Path(folder) / "device", _PROBE_SECONDS)
            if ended.status != 0:
                raise RunError(f"JAX does not start here: {ended.last_words}")
            said = (Path(folder) / "device.out").read_text().strip().splitlines()
            self.about = json.loads(said[-1])
        if self.about["platform"] == "cpu" and not self.setting.small:
            raise UsageError(
                "JAX finds no accelerator here, and these sizes would take hours on CPU. Install "
                "JAX for the device, as in pip install 'jax[cuda13]', or give --small to try the "
                "command."
            )

    def run(self, name: str, part: Part) -> None:
        """Runs a part as far as the time allows, and adds its figures."""
        left = self.end - time.monotonic()
        if left < _LEAST_SECONDS:
            self.parts[name] = {"state": "left out", "seconds": 0.0, "commands": []}
            self.rows.append((name, Row("left out", "no time left")))
            return
        entry = self.parts[name] = {"state": "interrupted", "seconds": 0.0, "commands": []}
        try:
            print(f"{name}: {part.about}", flush=True)
            entry["state"] = self._run_commands(name, part, entry, min(left, part.seconds))
        finally:  # an interrupted part has left figures too
            self._collect(name, entry)

    def _run_commands(self, name: str, part: Part, entry: dict[str, Any], seconds: float) -> str:
        """Runs a part's commands; returns its state."""
        start = time.monotonic()
        for command in part.commands(self.setting):
            files = self.setting.logs / f"{name}.{command.name}"
            environ = {"JAX_COMPILATION_CACHE_DIR": self._cache, **command.environ}
            command = command._replace(environ=environ)
            ended = children.run(command, files, start + seconds - time.monotonic())
            entry["commands"].append(ended._asdict())
            entry["seconds"] = time.monotonic() - start
            if ended.status is None:
                return "timed out"
            if ended.status != 0 and part.chain:
                return "failed"
        return "failed" if any(each["status"] for each in entry["commands"]) else "done"

    def _collect(self, name: str, entry: dict[str, Any]) -> None:
        """Adds the figures of a part, and its faults."""
        try:
            found = rows_of(name, self.setting)
        except (OSError, ValueError, LookupError, AttributeError) as error:
            found = [Row("what it left", f"cannot be read: {type(error).__name__}: {error}")]
            entry["state"] = "failed"
        troubles = [_trouble(name, each) for each in entry["commands"] if each["status"] != 0]
        if entry["state"] == "interrupted":
            troubles.append(Row("interrupted", "by a signal"))
        about = Row("time of this part", entry["seconds"], "s")
        self.rows += [(name, row) for row in (*found, *troubles, about)]

    def lines(self) -> list[str]:
        """Returns the table with a headline."""
        about = self.about
        versions = ", ".join(
            f"{name} {about[name] or 'missing'}" for name in ("python", "jax", "flax", "torch")
        )
        sizes = ", small sizes, which say nothing about speed" if self.setting.small else ""
        date = time.strftime("%d %B %Y").lstrip("0")
        head = f"{about['devices']} x {about['device']}, {versions}, {date}{sizes}"
        return [head, "", *table(self.rows)]

    def write(self) -> None:
        """Writes the figures so far."""
        write_text(self.out / "table.md", "\n".join(self.lines()) + "\n")
        found = []
        for part, row in self.rows:
            fields = row._asdict() | {"part": part, "reached": row.reached}
            if isinstance(row.value, float) and not math.isfinite(row.value):
                fields["value"] = str(row.value)  # JSON has no such number
            found.append(fields)
        results = {"about": self.about, "parts": self.parts, "rows": found}
        write_json(self.out / "results.json", results)
        if lines := kernel_lines(self.setting):
            write_text(self.out / "kernels.md", "\n".join(lines) + "\n")


def _trouble(part: str, ended: dict[str, Any]) -> Row:
    """Returns the row of a failed command, see `children.Ended`."""
    if ended["status"] is None:
        how = f"ended after {ended['seconds']:.0f} s, the time it had"
    else:
        how = f"exit status {ended['status']}: {textwrap.shorten(ended['last_words'], 200)}"
    return Row(ended["name"], f"{how} (logs/{part}.{ended['name']}.err)")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 all done, 1 a part is not, 2 a mistake of the user's."""
    try:
        options = parse(argv)
        out = options.out.resolve()
        setting = Setting(out / "work", out / "logs", options.small, options.photographs)
        measurement = Measurement(out, 60 * options.minutes, setting)
        measurement.probe()
    except (RunError, UsageError) as error:
        return tell(error)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        for name in options.parts:
            measurement.run(name, PARTS[name])
            measurement.write()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        measurement.write()
    print("\n" + "\n".join(measurement.lines()))
    done = [measurement.parts.get(name, {}).get("state") == "done" for name in options.parts]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
