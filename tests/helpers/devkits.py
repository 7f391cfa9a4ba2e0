"""Devkits of ImageNet, made small."""

import io
import tarfile

import numpy as np
from scipy.io import savemat

WNIDS = ["n02119789", "n02100735", "n02110185", "n02096294"]


def meta(**options):
    """meta.mat as in the devkit: an array of structs with numbers, strings and lists."""
    fields = [
        ("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object),
        ("num_children", object), ("children", object), ("wordnet_height", object),
        ("num_train_images", object),
    ]  # fmt: skip
    synsets = np.empty((len(WNIDS), 1), fields)
    for i, wnid in enumerate(WNIDS):
        children = np.arange(i, dtype=np.uint16)
        row = (float(i + 1), wnid, "kit fox, Vulpes", "a grey fox", i, children, 0.0, 1300.0)
        synsets[i, 0] = row
    file = io.BytesIO()
    savemat(file, {"synsets": synsets}, **options)
    return file.getvalue()


def devkit(path, labels, mat, folder="ILSVRC2012_devkit_t12/"):
    files = {
        "readme.txt": b"hello",
        "data/meta.mat": mat,
        "data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{i}\n" for i in labels).encode(),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)
