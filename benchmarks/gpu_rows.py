"""Turns the output of the commands of `benchmarks.gpu` into rows, one per figure, and a table."""

import json
import statistics
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import kernels
from benchmarks.gpu_parts import DEMO_ENCODERS, TRAJECTORIES, Setting
from nsneg_jax.training.workdir import METRICS, RESULTS

GOLDEN_TOLERANCE = 1e-9
# PyTorch's time divided by ours, at full size
_RATIOS = {"torch-compiled": {"least": 1.0, "aim": 1.15}, "torch-original": {"least": 2.5}}


class Row(NamedTuple):
    """A figure.

    Attributes:
        figure: name of the figure.
        value: a number or a word.
        unit: unit of a number.
        least, most: target, if there is one.
        aim: aim beyond the target.
    """

    figure: str
    value: float | str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    aim: float | None = None

    @property
    def target(self) -> str:
        """Returns the target in words; '' without one."""
        if self.least is not None:
            return f"at least {self.least:g}" + (f", aim {self.aim:g}" if self.aim else "")
        return f"at most {self.most:g}" if self.most is not None else ""

    @property
    def reached(self) -> bool | None:
        """Returns whether the target is reached; None without one."""
        if isinstance(self.value, str):
            return None
        if self.least is not None:
            return self.value >= self.least
        return self.value <= self.most if self.most is not None else None


def rows_of(part: str, setting: Setting) -> list[Row]:
    """Returns the available figures of a part."""
    return list(_ROWS[part](setting))


def table(rows: Iterable[tuple[str, Row]]) -> list[str]:
    """Formats rows, with the names of their parts, as Markdown."""
    lines = ["| part | figure | value | target | reached |", "|---|---|---|---|---|"]
    for part, row in rows:
        reached = {None: "", True: "yes", False: "NO"}[row.reached]
        cells = (part, row.figure, f"{_shown(row.value)} {row.unit}".strip(), row.target, reached)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def kernel_lines(setting: Setting) -> list[str]:
    """Returns the most expensive kernels of the step; none if it was not profiled."""
    found = _said(setting, "step", "ours").get("profile")
    return kernels.lines(found) if found else []


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value.replace("|", "/").replace("\n", " ")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _said(setting: Setting, part: str, command: str) -> dict[str, Any]:
    """Returns the last JSON line that a command printed; empty if there is none."""
    path = setting.said(part, command)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # An unterminated line comes from a command that was ended while it wrote.
    found = [line for line in lines if line.startswith("{") and line.endswith("\n")]
    return json.loads(found[-1]) if found else {}


def _step(setting: Setting) -> Iterator[Row]:
    ours = _said(setting, "step", "ours")
    if ours:
        yield Row("ours, whole step", ours["images_per_second"], "images/s")
        yield Row("ours, whole step", 1e3 * ours["seconds_per_step"], "ms")
        yield Row("ours, method alone", ours["method_images_per_second"], "images/s")
        for name, of in (("flops", "FLOP/s"), ("bandwidth", "memory bandwidth")):
            share = ours[f"share_of_peak_{name}"]
            if share is not None:
                yield Row(f"ours, whole step, of peak {of}", 100 * share, "%")
        if ours["bytes_per_step"]:
            yield Row("ours, whole step, moved", ours["bytes_per_step"] / 1e9, "GB")
        yield Row("ours, compilation of the step", ours["compile_seconds"], "s")
        yield Row("ours, peak memory", ours["peak_memory_bytes"] / 1e9, "GB")
    beside = _said(setting, "step", "peers")
    peers = beside.get("peers", {})
    tuned = peers.get("torch", {}).get("timed_first_loss")
    for name, peer in peers.items():
        if "error" in peer:
            yield Row(name, peer["error"])
            continue
        target: dict[str, Any] = {} if setting.small else _RATIOS.get(name, {})
        yield Row(f"{name}, batch {peer['batch']}", peer["images_per_second"], "images/s")
        yield Row(f"{name} time / ours, method alone", peer["ratio"], **target)
        yield Row(f"{name} time / ours, whole step", peer["whole_ratio"])
        off = abs(peer["first_loss"] / beside["first_loss"] - 1)
        yield Row(f"{name}, first loss, relative difference from ours", off)
        if name != "torch" and tuned and peer["batch"] == peers["torch"]["batch"]:
            off = abs(peer["timed_first_loss"] / tuned - 1)
            yield Row(f"{name}, timed first loss, relative difference from torch", off)


def _golden(setting: Setting) -> Iterator[Row]:
    for name in TRAJECTORIES:
        report = setting.work / "golden" / f"{name}.xml"
        if not report.exists():
            continue
        case = ElementTree.parse(report).find(".//testcase")
        if case is None:
            continue
        worst = case.find(".//property[@name='worst_relative_error']")
        if worst is not None:
            value = float(worst.attrib["value"])
            yield Row(f"{name}, worst error of a loss", value, most=GOLDEN_TOLERANCE)
        held = case.find("failure") is None and case.find("error") is None
        yield Row(f"{name}, all that was recorded", "holds" if held else "does NOT hold")


def _demo(setting: Setting) -> Iterator[Row]:
    folder = setting.work / "demo"
    for encoder in DEMO_ENCODERS:
        path = folder / f"{encoder}-eval" / RESULTS
        if path.exists():
            clean = json.loads(path.read_text())["sets"]["clean"]
            yield Row(f"{encoder}, clean top-1", clean["accuracy_top1"], "%")
    yield from _speed(folder / "patch", "pre-training")
    yield Row("table", "made" if (folder / "table.md").exists() else "NOT made")


def _job(setting: Setting) -> Iterator[Row]:
    made = _said(setting, "job", "made")
    if made:
        yield Row("photographs", made["images"], "files")
        yield Row("photographs, mean size", made["mean_bytes"] / 1000, "kB")
    yield from _speed(setting.work / "job", "job")
    for each in _said(setting, "job", "input").get("sources", {}).values():
        yield Row("input alone", each["images_per_second"], "images/s")
        yield Row("input alone, processor time per image", each["cpu_ms_per_image"], "ms")


def _speed(workdir: Path, name: str) -> Iterator[Row]:
    """Returns medians over the lines of a pre-training, without the first, which warms up."""
    path = workdir / METRICS
    lines = path.read_text().splitlines() if path.exists() else []
    figures = [json.loads(line) for line in lines]
    timed = [each for each in figures if "images_per_second" in each][1:]
    if timed:
        fields = (("images_per_second", 1, "images/s"), ("input_wait_fraction", 100, "%"))
        for field, scale, unit in fields:
            value = scale * statistics.median(each[field] for each in timed)
            label = name if unit != "%" else f"{name}, time that waits for input"
            yield Row(label, value, unit)


def _start_up(setting: Setting) -> Iterator[Row]:
    seconds = _said(setting, "start-up", "starts").get("seconds_to_first_step", [])
    for place, each in enumerate(seconds):
        about = "empty cache" if place == 0 else f"cache filled, start {place + 1}"
        yield Row(f"time to the first step, {about}", each, "s")


def _repeat(setting: Setting) -> Iterator[Row]:
    found = _said(setting, "repeat", "compared")
    if found:
        about = f"arrays of {found['arrays']} that differ in a bit"
        yield Row(about, found["different"], most=0)
        yield Row("largest difference", found["largest_difference"])


def _texture(setting: Setting) -> Iterator[Row]:
    found = _said(setting, "texture", "synthesis")
    if found:
        yield Row(f"textures, batch {found['batch']}", found["images_per_second"], "images/s")


def _corruptions(setting: Setting) -> Iterator[Row]:
    found = _said(setting, "corruptions", "all")
    if found:
        settings = 15 * 5
        speed = settings * 100 / found["test_seconds_per_100_images"]
        yield Row("15 test corruptions, 5 severities, mean", speed, "images/s")
        yield Row("compilation of all 19", found["compile_seconds"], "s")


_ROWS = {
    "step": _step,
    "golden": _golden,
    "demo": _demo,
    "job": _job,
    "start-up": _start_up,
    "repeat": _repeat,
    "texture": _texture,
    "corruptions": _corruptions,
}
