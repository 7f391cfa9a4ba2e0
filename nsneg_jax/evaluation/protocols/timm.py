"""Results as timm writes them: a CSV file per test set, with a row per model.

The files of github.com/huggingface/pytorch-image-models, in its folder `results`, have these
columns, figures in % and parameters in millions.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsneg_jax.errors import UsageError
from nsneg_jax.files import check_writable
from nsneg_jax.input.labelled import scaled_resize

COLUMNS = (
    "model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct",
    "interpolation",
)  # fmt: skip


def file_of(path: Path, set_name: str) -> Path:
    """Returns the path of a set's file: results-sketch.csv for results.csv."""
    return path.with_name(f"{path.stem}-{set_name}{path.suffix or '.csv'}")


def row(
    model: str, entry: Mapping[str, Any], parameters: int, image_size: int, resize: int
) -> dict[str, str] | None:
    """Returns the row of a model in a set's file; None if the set has no top-1.

    Args:
        model: name of the model.
        entry: the set's entry of results.json.
        parameters: number of parameters of encoder and classifier.
        image_size: side of the views in pixels.
        resize: shorter side before the central crop, at 224; 0 crops without resizing.
    """
    figures = [entry.get(f"accuracy_{name}") for name in ("top1", "top5")]
    if None in figures:
        return None
    top1, top5 = (float(figure) for figure in figures if figure is not None)
    side = scaled_resize(resize, image_size)
    values = (
        model, f"{top1:.3f}", f"{100 - top1:.3f}", f"{top5:.3f}", f"{100 - top5:.3f}",
        f"{parameters / 1e6:.2f}", str(image_size), f"{image_size / side if side else 1:.3f}",
        "bilinear",
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def check(path: Path, sets: Sequence[str]) -> None:
    """Raises UsageError if a set's file cannot be written, or exists without these columns."""
    for name in sets:
        check_writable(file_of(path, name), "--csv")
        _rows(file_of(path, name))


def table(path: Path, added: Mapping[str, str]) -> str:
    """Returns the text of a set's file with a row added, sorted by top-1, the best first.

    Args:
        path: the file, which may be missing; a row of the same model is replaced.
        added: the row.

    Raises:
        UsageError: the file has other columns.
    """
    rows = [each for each in _rows(path) if each["model"] != added["model"]]
    rows = sorted([*rows, dict(added)], key=lambda each: -float(each["top1"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if sorted(reader.fieldnames or ()) != sorted(COLUMNS):
            raise UsageError(
                f"{path} has the columns {', '.join(reader.fieldnames or ())}, but rows like "
                f"timm's have {', '.join(COLUMNS)}. Give another name with --csv=FILE."
            )
        return list(reader)
