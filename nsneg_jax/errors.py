"""Errors that end a run with one clear paragraph instead of a traceback."""

import io
import sys
import textwrap


class UsageError(Exception):
    """A mistake in the configuration, the command line or the data given.

    Its message names the value, what was expected and how to mend it; commands exit with
    status 2.
    """


class RunError(Exception):
    """A run that cannot continue although its command is right; commands exit with status 1.

    Its message says what happened, what is safe, and how to continue.
    """


def printable(name: str) -> str:
    """Returns a name for a message: one line, in characters that any terminal in UTF-8 shows.

    Control characters are escaped as in Python, and so are the bytes of file names that are no
    UTF-8, as \\xNN.
    """
    if name.isprintable():
        return name
    return "".join(
        c if c.isprintable()
        else f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF
        else c.encode("unicode_escape").decode("ascii")
        for c in name
    )  # fmt: skip


def escape_output() -> None:
    """Makes standard output escape what its encoding lacks, as standard error does.

    Without this a command that names a file would end with UnicodeEncodeError.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def paragraph(error: Exception) -> str:
    """Wraps the message for a terminal: lines of 100 characters, paths unbroken."""
    return textwrap.fill(f"error: {error}", 100, break_on_hyphens=False, break_long_words=False)


def exit_status(error: Exception) -> int:
    """Returns the exit status of a command that `error` ends: 2 for a user's mistake, else 1."""
    return 2 if isinstance(error, UsageError) else 1


def tell(error: Exception) -> int:
    """Prints the message to standard error; returns the exit status."""
    print(paragraph(error), file=sys.stderr)
    return exit_status(error)
