"""CIFAR, STL-10 and MNIST's files in their published layout, with pixels made here.

The pickles are written opcode by opcode as Python 2 wrote CIFAR's, whose strings Python 3 cannot
write. Only the numbers of images are smaller.
"""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

TEN = (*("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),)
FINE, COARSE = ("apple", "bear", "cloud", "worm"), ("fruit", "weather")
STL = ("airplane", "bird", "car", "cat")


def pixels(count: int, seed: int, shape=(3, 32, 32)) -> np.ndarray:
    """uint8 [count, *shape] at random."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def labels(count: int, classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed + 100).permutation(np.arange(count) % classes)


def text(value: str) -> bytes:
    """A string of Python 2."""
    data = value.encode()
    return b"U" + bytes([len(data)]) + data


def number(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)


def listed(values) -> bytes:
    return b"](" + b"".join(values) + b"e"


def array(values: np.ndarray) -> bytes:
    """uint8 [n, m], as Python 2 and NumPy wrote it."""
    n, m = values.shape
    data = values.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + number(n) + number(m) + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(data)) + data + b"tb"
    )  # fmt: skip


def pickled(**values: bytes) -> bytes:
    """A dict of values that are pickled already."""
    items = b"".join(text(key) + value for key, value in values.items())
    return b"\x80\x02}(" + items + b"u."


class Made:
    """The files of a data set in one of its forms, by name."""

    def __init__(self, folder: str, files: dict[str, bytes]) -> None:
        self.folder, self.files = folder, files

    def write(self, root: Path) -> Path:
        """ROOT/FOLDER/FILE."""
        folder = root / self.folder
        folder.mkdir(parents=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder

    def pack(self, path: Path) -> Path:
        """A .tar.gz with FOLDER/FILE."""
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for name, data in self.files.items():
                member = tarfile.TarInfo(f"{self.folder}/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path


def cifar10(per_file: int) -> dict[str, Made]:
    """Both forms, of five training batches and one for tests with `per_file` images each."""
    py, binary = {}, {}
    for i in range(6):
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        data, own = pixels(per_file, i), labels(per_file, 10, i)
        flat = data.reshape(per_file, -1)
        py[name] = pickled(
            batch_label=text(name),
            labels=listed(map(number, own.tolist())),
            data=array(flat),
            filenames=listed(text(f"{k}.png") for k in range(per_file)),
        )
        binary[f"{name}.bin"] = np.c_[own.astype(np.uint8), flat].tobytes()
    py["batches.meta"] = pickled(
        num_cases_per_batch=number(per_file), label_names=listed(map(text, TEN))
    )
    binary["batches.meta.txt"] = "".join(f"{name}\n" for name in TEN).encode() + b"\n"
    py["readme.html"] = binary["readme.html"] = b"<html></html>"
    return {
        "cifar-10-python": Made("cifar-10-batches-py", py),
        "cifar-10-binary": Made("cifar-10-batches-bin", binary),
    }


def cifar100(train: int, test: int) -> dict[str, Made]:
    """Both forms, with four fine and two coarse classes."""
    py, binary = {}, {}
    for name, count in (("train", train), ("test", test)):
        flat, fine = pixels(count, count).reshape(count, -1), labels(count, 4, count)
        py[name] = pickled(
            filenames=listed(text(f"{k}.png") for k in range(count)),
            fine_labels=listed(map(number, fine.tolist())),
            coarse_labels=listed(map(number, (fine // 2).tolist())),
            data=array(flat),
        )
        both = np.c_[fine // 2, fine].astype(np.uint8)
        binary[f"{name}.bin"] = np.c_[both, flat].tobytes()
    py["meta"] = pickled(
        fine_label_names=listed(map(text, FINE)), coarse_label_names=listed(map(text, COARSE))
    )
    for key, names in (("fine", FINE), ("coarse", COARSE)):
        binary[f"{key}_label_names.txt"] = "".join(f"{name}\n" for name in names).encode()
    return {
        "cifar-100-python": Made("cifar-100-python", py),
        "cifar-100-binary": Made("cifar-100-binary", binary),
    }


def stl10(train: int, test: int, unlabeled: int, per_fold: int) -> tuple[Made, dict]:
    """The unpacked archive, and the pictures of each file as [n, H, W, 3]."""
    files = {"class_names.txt": "".join(f"{name}\n" for name in STL).encode()}
    pictures = {}
    for i, (name, count) in enumerate((("train", train), ("test", test), ("unlabeled", unlabeled))):
        stored = pixels(count, i, (3, 96, 96))  # channel, column, row
        files[f"{name}_X.bin"] = stored.tobytes()
        pictures[name] = stored.transpose(0, 3, 2, 1)
        if name != "unlabeled":
            files[f"{name}_y.bin"] = (labels(count, 4, i) + 1).astype(np.uint8).tobytes()
    folds = [np.random.default_rng(i).permutation(train)[:per_fold] for i in range(10)]
    files["fold_indices.txt"] = "".join(" ".join(map(str, fold)) + " \n" for fold in folds).encode()
    return Made("stl10_binary", files), pictures


def idx(values: np.ndarray) -> bytes:
    """uint8 array of any axes as an idx file."""
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.tobytes()


def mnist(train: int, test: int, packed: bool = True) -> tuple[Made, dict]:
    """The four files, and the pictures by split."""
    files, pictures = {}, {}
    for split, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        pictures[split] = pixels(count, count, (28, 28))
        own = labels(count, 10, count).astype(np.uint8)
        for name, values in (("images-idx3", pictures[split]), ("labels-idx1", own)):
            data = idx(values)
            name = f"{prefix}-{name}-ubyte"
            files[f"{name}.gz" if packed else name] = gzip.compress(data, 1) if packed else data
    return Made("mnist", files), pictures
