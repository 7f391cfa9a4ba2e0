"""Lists of classes that users give: names with commas, or a file with a class per line."""

import codecs
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import user_path

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = ",;"


class ClassLine(str):
    """A line of a list of classes; as a string, its first word.

    Attributes:
        line: the whole line.
        readings: the names that it may stand for, the likeliest first: the whole line, what stands
            before its first tab, its first word.
    """

    line: str
    readings: tuple[str, ...]

    def __new__(cls, line: str) -> "ClassLine":
        """Makes one from a line that is not blank."""
        line = line.strip()
        column, word = line.split("\t")[0].strip(), line.split()[0]
        made = super().__new__(cls, word)
        made.line = line
        made.readings = tuple(dict.fromkeys((line, column, word)))
        return made


def class_names(classes: str) -> tuple[str, ...]:
    """Reads the names of class folders from `data.classes`.

    Args:
        classes: names separated by commas, or the path of a text file in UTF-8 with one class per
            line. A line that is the whole name of a class of the data set stands for it; else the
            text before a tab does, or the first word (see `resolved`). Empty lines and lines that
            begin with '#' are skipped.

    Returns:
        The names; for a file, a `ClassLine` each.

    Raises:
        UsageError: the file is missing or is no text in UTF-8, a class is named twice, or there is
            no name in it.
    """
    path = user_path(classes)
    names: list[str]
    if path.is_file():
        names = list(_lines(path))
    elif path.suffix in (".txt", ".tsv", ".csv") or "/" in classes:
        raise UsageError(
            f"data.classes is {classes!r}, which is no file. Give the path of a text file with one "
            "class per line, or class names separated by commas."
        )
    else:
        names = [name.strip() for name in classes.split(",") if name.strip()]
        _check_different(names, f"data.classes, {classes!r},")
    if not names:
        raise UsageError(f"data.classes is {classes!r}, which names no class. Name at least one.")
    return tuple(names)


def resolved(classes: Sequence[str], found: Collection[str]) -> tuple[str, ...]:
    """Returns the names that lines of a list stand for, in their order.

    Args:
        classes: names, or lines from `class_names`.
        found: names of the classes of the data set. A line that is none of them in any reading
            stands for its first word.

    Raises:
        UsageError: two lines stand for the same class.
    """
    there = set(found)
    names = tuple(
        next((name for name in readings(each) if name in there), str(each)) for each in classes
    )
    if any(isinstance(each, ClassLine) for each in classes):
        _check_different(names, "The list of classes")
    return names


def by_themselves(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the names in a list, where nothing says what the classes of the data set are.

    These are the first words, unless some are equal; then the whole lines.
    """
    words = tuple(map(str, classes))
    if len(set(words)) == len(words):
        return words
    return tuple(readings(each)[0] for each in classes)


def readings(name: str) -> tuple[str, ...]:
    """Returns the names that a name or a line may stand for."""
    return name.readings if isinstance(name, ClassLine) else (name,)


def advice(missing: Iterable[str]) -> str:
    """Returns a sentence, with a leading space, on why lines of a list may name no class; or ''."""
    lines = [each for each in missing if isinstance(each, ClassLine)]
    undecoded = next((each for each in lines if _is_undecoded(each.line)), None)
    if undecoded is not None:
        return (
            f" The line {printable(undecoded.line)} is no UTF-8, so the file may be in Latin-1: "
            "convert it with `iconv -f LATIN1 -t UTF-8 FILE > NEW`."
        )
    separated = next((each for each in lines if _is_separated(each.line)), None)
    if separated is not None:
        return (
            f" The line {printable(separated.line)} looks like a row of a CSV file, but a list of "
            "classes has one name per line and nothing before it: keep only the column with the "
            "names, without its header."
        )
    return ""


def _lines(path: Path) -> tuple[ClassLine, ...]:
    data = path.read_bytes()
    if data.startswith(_UTF_16) or b"\0" in data:
        raise UsageError(
            f"The list of classes {path} is in UTF-16, or is no text. Save it as UTF-8, for "
            "example with `iconv -f UTF-16 -t UTF-8 FILE > NEW`."
        )
    # Names of files may be no UTF-8.
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in found:
            raise UsageError(
                f"The list of classes {path} has the class {printable(name)} twice, in lines "
                f"{found[name]} and {number}. Remove one of them."
            )
        found[name] = number
    return tuple(map(ClassLine, found))


def _check_different(names: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{where} has the class {printable(name)} twice. Remove one of them.")
        seen.add(name)


def _is_undecoded(text: str) -> bool:
    return any(0xDC80 <= ord(character) <= 0xDCFF for character in text)


def _is_separated(text: str) -> bool:
    return any(separator in text for separator in _SEPARATORS)
