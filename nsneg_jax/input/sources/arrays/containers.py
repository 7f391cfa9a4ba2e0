"""Files of a data set in a folder, or in an archive as it was downloaded."""

import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.sources import storage

# Nothing read whole here is larger: CIFAR-100's training images have 155 MB, those of EMNIST 550.
MOST_BYTES = 2**30
ARCHIVES = (".tar.gz", ".tgz", ".tar")
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
AGAIN = "Download or unpack it again."


class Container(NamedTuple):
    """A folder or an archive that holds files.

    Attributes:
        path: its path.
        is_archive: whether it is a tar archive, packed or not.
    """

    path: str
    is_archive: bool

    def read(self, names: Collection[str]) -> dict[str, bytes]:
        """Reads files by their names, in an archive wherever they are in it.

        Raises:
            UsageError: one of them is missing, or cannot be read.
        """
        found = self._of_archive(names) if self.is_archive else self._of_folder(names)
        missing = [name for name in names if name not in found]
        if missing:
            raise UsageError(
                f"{printable(self.path)} lacks {', '.join(missing)}. {AGAIN} It must hold "
                f"{', '.join(names)}."
            )
        return found

    def place(self, name: str) -> str:
        """Returns the path of a file in it, for messages."""
        return f"{self.path}/{name}"

    def files(self, names: Sequence[str]) -> list[str]:
        """Returns the paths of the files on the disk that hold the named ones."""
        return [self.path] if self.is_archive else [self.place(name) for name in names]

    def _of_folder(self, names: Collection[str]) -> dict[str, bytes]:
        there = [name for name in names if os.path.exists(self.place(name))]
        return {name: read_whole(self.place(name)) for name in there}

    def _of_archive(self, names: Collection[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        try:
            # Only read, never unpacked to a disk: the names in it lead nowhere.
            with tarfile.open(self.path, "r:*") as archive:
                for member in archive:
                    name = member.name.rpartition("/")[2]
                    if member.isfile() and name in names and name not in found:
                        if member.size > MOST_BYTES:
                            raise OSError(f"{name} is larger than {MOST_BYTES:,} bytes")
                        file = archive.extractfile(member)
                        content = file.read() if file else b""
                        if len(content) != member.size:
                            raise EOFError(f"it ends in {name}")
                        found[name] = content
                    if len(found) == len(names):
                        break
        except _DAMAGE as error:
            raise damaged(self.path, error) from error
        return found


def read_whole(path: str) -> bytes:
    """Reads a file, and unpacks it if its name ends in .gz.

    Raises:
        UsageError: it cannot be read, or is damaged or incomplete.
    """
    try:
        if not path.endswith(".gz"):
            return storage.read_bytes(path, MOST_BYTES)
        with gzip.open(path) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise OSError(f"it holds more than {MOST_BYTES:,} bytes")
        return content
    except _DAMAGE as error:
        raise damaged(path, error) from error


def damaged(path: str, reason: object) -> UsageError:
    """Makes the error of a file that is damaged or incomplete."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return UsageError(
        f"{printable(path)} is damaged or incomplete: {printable(text.rstrip('.'))}. {AGAIN}"
    )


def local(spec: str, path: str) -> str:
    """Returns a path if it is local.

    Raises:
        UsageError: it is in an object store.
    """
    if storage.is_remote(path):
        raise UsageError(f"{spec} is in a store. Copy its files to a local folder.")
    return path.rstrip("/") or "/"
