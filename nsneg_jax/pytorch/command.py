"""Imports PyTorch checkpoints, and exports checkpoints for PyTorch, timm, the hub and plain JAX.

    nsneg convert import FILE OUT_DIR [--images N] [--batch_size N]
    nsneg convert export DIR OUT|OUT.safetensors|OUT.pth|OUT.pth.tar|OUT.stablehlo

FILE is an official pre-training state, an official linear probe, a torchvision ResNet
(`nsneg_jax.pytorch.states`), another program's file with such an encoder
(`nsneg_jax.pytorch.layouts`), or a folder for timm and the Hugging Face hub. The first becomes a
checkpoint that pre-training resumes from, the others a linear probe's checkpoint. DIR is a workdir
or a checkpoint folder in it. OUT without a suffix becomes a folder for timm and the hub.
"""

import argparse
from collections.abc import Sequence

import jax

from nsneg_jax.errors import RunError, UsageError, tell
from nsneg_jax.files import user_path
from nsneg_jax.models.resnet import STEMS
from nsneg_jax.pytorch.exporting import export
from nsneg_jax.pytorch.importing import BATCH_SIZE, IMAGES, import_file

_OUT = (
    "OUT: a folder for timm and the Hugging Face hub; OUT.safetensors, OUT.pth or OUT.pth.tar: a "
    "file; OUT.stablehlo: a program that runs with JAX alone"
)


def program(arguments: Sequence[str]) -> int:
    """Runs `main` for `nsneg convert` on the CPU, because a job may hold the accelerator."""
    jax.config.update("jax_platforms", "cpu")
    return main(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status: 0 done, 2 a user's mistake, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="nsneg convert",
        description="Import PyTorch checkpoints, and export ours for other programs.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser("import", help="a PyTorch or safetensors file to a checkpoint")
    importing.add_argument("file", type=user_path, help="a file, or a folder that was exported")
    importing.add_argument("out_dir", type=user_path)
    importing.add_argument(
        "--images", type=int, help=f"training images of the run, by default {IMAGES}"
    )
    importing.add_argument(
        "--batch_size", type=int, help=f"images per step of the run, by default {BATCH_SIZE}"
    )
    importing.add_argument("--stem", choices=STEMS[1:], help="of a network with a 3x3 stem")
    importing.add_argument(
        "--heads",
        type=int,
        metavar="NUMBER",
        help="attention heads of a ViT; by default 12 of MoCo-v3's, else features / 64",
    )
    exporting = commands.add_parser("export", help="a checkpoint to a folder, file or program")
    exporting.add_argument("dir", type=user_path, help="a workdir or a checkpoint folder in it")
    exporting.add_argument("out", type=user_path, help=_OUT)
    exporting.add_argument(
        "--image_size", type=int, metavar="PIXELS", help="of the views, if it is not recorded"
    )
    exporting.add_argument(
        "--resize", type=int, metavar="PIXELS", help="at 224, before the crop; 0: only crop"
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "import":
            summary = import_file(
                options.file,
                options.out_dir,
                options.images,
                options.batch_size,
                options.stem,
                options.heads,
            )
        else:
            summary = export(options.dir, options.out, options.image_size, options.resize)
    except (UsageError, RunError) as error:
        return tell(error)
    print(summary)
    return 0
