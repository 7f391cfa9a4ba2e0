"""Says what a file is by its contents, where it is no file of PyTorch or safetensors."""

import re
import zipfile
from pathlib import Path

TORCH, SAFETENSORS = "PyTorch", "safetensors"

_FIRST_BYTES = 4096
_SOME = 5  # members of an archive to name
_PACKED = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"(\xb5/\xfd": "a Zstandard file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
}
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, such as Keras writes",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
}
_MEND_KIND = "Give a file written by torch.save, or a .safetensors file."


def kind_of(path: Path) -> tuple[str, str]:
    """Tells by the first bytes which program reads a file.

    Args:
        path: an existing file.

    Returns:
        TORCH or SAFETENSORS, and ''; or '' and what the file is instead, as the rest of a sentence
        that begins with its name, with how to mend it. A file that is damaged or unknown counts as
        TORCH, or as SAFETENSORS by its suffix.
    """
    with path.open("rb") as file:
        head = file.read(_FIRST_BYTES)
    if head.startswith(b"version https://git-lfs"):
        return "", _lfs_pointer(head)
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<[!?a-zA-Z]", head):
        return "", _web_page(head)
    for start, name in _PACKED.items():
        if head.startswith(start):
            return "", f"is {name}, no PyTorch checkpoint: unpack it, and give the file in it."
    for start, name in _OTHERS.items():
        if head.startswith(start):
            return "", f"is {name}, no PyTorch checkpoint. {_MEND_KIND}"
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    if head[257:262] == b"ustar":
        return "", "is a tar archive, no PyTorch checkpoint: unpack it, and give the file in it."
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return SAFETENSORS, ""
    if head and _is_text(head):
        line = head.decode("utf-8", "replace").strip().splitlines()[:1]
        begins = f", which begins {line[0][:60]!r}" if line else ""
        return "", f"is a text file{begins}, no PyTorch checkpoint. {_MEND_KIND}"
    by_suffix = path.name.endswith(".safetensors") and not head.startswith(b"\x80")
    return (SAFETENSORS if by_suffix else TORCH), ""


def _lfs_pointer(head: bytes) -> str:
    size = re.search(rb"^size (\d+)", head, re.MULTILINE)
    of = f" to a file of {int(size[1]):,} bytes" if size else ""
    return (
        f"is a Git LFS pointer{of}, not the file itself. Run `git lfs pull` in its repository, or "
        "download the file from the repository's page."
    )


def _web_page(head: bytes) -> str:
    found = re.search(rb"<title[^>]*>(.*?)</title>", head, re.DOTALL | re.IGNORECASE)
    title = " ".join(found[1].decode("utf-8", "replace").split())[:80] if found else ""
    named = f" with the title {title!r}" if title else ""
    return (
        f"is a web page{named}, no PyTorch checkpoint: a site sent it in place of the file, as a "
        "warning or a login. Open the address in a browser and download the file there."
    )


def _kind_of_zip(path: Path) -> tuple[str, str]:
    """torch.save and TorchScript write zip files too, with entries of fixed names."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "", (
            "is a TorchScript program, which holds code beside its weights, so it was not loaded. "
            "With PyTorch, save the state_dict of torch.jit.load(FILE) to a new file by "
            "torch.save, and convert that."
        )
    if "data.pkl" in inner:
        return TORCH, ""
    if names and all(name.endswith(".npy") for name in names):
        return "", f"is a NumPy archive (.npz), no PyTorch checkpoint. {_MEND_KIND}"
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return "", (
        f"is a zip archive of {', '.join(names[:_SOME]) or 'no files'}{more}, no PyTorch "
        "checkpoint itself: unpack it, and give the file in it."
    )


def _is_text(head: bytes) -> bool:
    try:
        text = head[:200].decode("ascii")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\r\n" for c in text)
