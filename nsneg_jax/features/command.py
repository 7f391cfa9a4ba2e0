"""Embeds a folder of images with a trained encoder, without labels or a config.

    nsneg features --pretrained=RUN FOLDER --out=FILE

writes a row per image, with its name below FOLDER, to FILE. Its suffix gives the format: .parquet,
.npz or .safetensors. Files that cannot be read are named and left out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nsneg_jax.errors import UsageError
from nsneg_jax.files import check_writable, expand, user_path

USAGE = "nsneg features --pretrained=RUN FOLDER --out=FEATURES.parquet"
_OF_JOB = ("config", "noconfig", "workdir")
_SUFFIXES = (".parquet", ".npz", ".safetensors")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    found = argparse.ArgumentParser(
        prog="nsneg features",
        usage=USAGE,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    found.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="all images below it are embedded"
    )
    found.add_argument(
        "--pretrained",
        metavar="RUN",
        help="encoder: a workdir, a checkpoint folder, an exported folder, or a PyTorch or "
        "safetensors file",
    )
    found.add_argument(
        "--out",
        metavar="FILE",
        type=user_path,
        help="file to write: .parquet, .npz or .safetensors",
    )
    found.add_argument(
        "--batch_size", metavar="N", type=int, default=64, help="images per pass; 64"
    )
    found.add_argument(
        "--image_size",
        metavar="PIXELS",
        type=int,
        help="side of a view; by default as the encoder records it",
    )
    found.add_argument(
        "--resize",
        metavar="PIXELS",
        type=int,
        help="shorter side before the central crop, at 224; 0 crops only; by default as recorded",
    )
    found.add_argument(
        "--dtype",
        metavar="DTYPE",
        choices=("float32", "bfloat16", "float64"),
        default="float32",
        help="of the computation: float32, bfloat16 or float64; float32",
    )
    return found


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status 0.

    Raises:
        UsageError: an argument is wrong, or there is nothing to embed.
        RunError: a feature is not finite.
    """
    options = parse(arguments)
    form = _format_of(options.out)
    check_writable(options.out, "--out")
    if options.batch_size < 1:
        raise UsageError(f"--batch_size is {options.batch_size}, but must be at least 1.")
    # after what needs no JAX
    from nsneg_jax.features.folder import embed_folder, open_folder
    from nsneg_jax.features.table import check_format
    from nsneg_jax.parallel.compilation_cache import keep_programs
    from nsneg_jax.pytorch.loading import load

    check_format(form)
    source = open_folder(expand(options.folder.removeprefix("folder:")))
    encoder = load(
        options.pretrained, options.dtype, image_size=options.image_size, resize=options.resize
    )
    keep_programs()
    written = embed_folder(encoder, source, options.out, form, options.batch_size)
    rows, values = written.table.features.shape
    line = f"done: {rows:,} images embedded, {values:,} values each, in {options.out}"
    if written.skipped:
        line += f"; {len(written.skipped):,} skipped, which cannot be read"
    print(line)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments; raises UsageError if one is missing or wrong."""
    try:
        options, unknown = parser().parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise _mistake(str(error)) from error
    if unknown:
        raise _mistake(f"{unknown[0]!r} is no argument of `nsneg features`, or one too many")
    needed = {"FOLDER": options.folder, "--pretrained": options.pretrained, "--out": options.out}
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise _mistake(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
    return options


def _mistake(what: str) -> UsageError:
    return UsageError(
        f"{what}. To embed a folder: {USAGE}. For the splits of a data set, with their labels: "
        "nsneg features --config=linear --workdir=DIR --config.pretrained=RUN. `nsneg features "
        "--help` explains both."
    )


def is_asked(arguments: Sequence[str]) -> bool:
    """Returns whether the arguments of `nsneg features` are of this command.

    They are not if they ask for help, which explains the job too, or are the job's.
    """
    flags = [word.lstrip("-") for word in arguments if word.startswith("-")]
    return not any(flag in ("h", "help") or flag.startswith(_OF_JOB) for flag in flags)


def _format_of(out: Path) -> str:
    if out.suffix not in _SUFFIXES:
        raise UsageError(
            f"--out is {out}, but must end in {', '.join(_SUFFIXES)}, which gives the format."
        )
    return out.suffix.removeprefix(".")
