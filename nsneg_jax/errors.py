"""Errors that end a run with one clear paragraph instead of a traceback."""

import errno
import io
import sys
import textwrap

STOPPED = 75  # exit status of a run that can go on: EX_TEMPFAIL of sysexits.h, "try again later"


class UsageError(Exception):
    """A mistake in the configuration, the command line or the data given.

    Its message names the value, what was expected and how to mend it; commands exit with
    status 2.
    """


class RunError(Exception):
    """A run that cannot continue although its command is right; commands exit with status 1.

    Its message says what happened, what is safe, and how to continue.
    """


class Stopped(BaseException):
    """A command that a signal ended before its work was done; commands exit with status 75.

    Like KeyboardInterrupt it is no `Exception`, so that nothing takes it for a failure.
    """


# What to do about an error of the system, and whether the command itself must change.
_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): ("Make room", False),
    (errno.EACCES, errno.EPERM, errno.EROFS): (
        "Allow this user to read and write there, or give another place",
        True,
    ),
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY): (
        "Something else has this name: move it away, or give another place",
        True,
    ),
    (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.ENOENT): ("Give another place", True),
}


def of_system(error: OSError) -> UsageError | RunError:
    """Returns an error with one paragraph for what the system refused, such as a full disk.

    It is a UsageError where the command must change, such as for a folder that is a file.
    """
    remedy, is_usage = next(
        (each for numbers, each in _REMEDIES.items() if error.errno in numbers),
        ("Look whether its storage can be reached", False),
    )
    place = error.filename2 or error.filename
    reason = error.strerror or str(error).strip() or type(error).__name__
    said = f"{printable(str(place))}: {reason}" if place else reason
    text = f"{said.rstrip('.')}. {remedy}, and run the same command again."
    return UsageError(text) if is_usage else RunError(text)


# What ends a command with a message in place of a traceback.
EXPLAINED = (UsageError, RunError, OSError, Stopped)


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
    """Wraps the message for a terminal: lines of 100 characters, paths unbroken.

    An OSError has the message of `of_system`.
    """
    if isinstance(error, OSError):
        error = of_system(error)
    return textwrap.fill(f"error: {error}", 100, break_on_hyphens=False, break_long_words=False)


def exit_status(error: BaseException) -> int:
    """Returns the exit status of a command that `error` ends.

    It is 2 for a user's mistake, `STOPPED` if a signal stopped the command, else 1.
    """
    if isinstance(error, Stopped):
        return STOPPED
    if isinstance(error, OSError):
        error = of_system(error)
    return 2 if isinstance(error, UsageError) else 1


def tell(error: Exception | Stopped) -> int:
    """Prints the message of one of `EXPLAINED` and returns the exit status.

    A Stopped is printed to standard output, an error to standard error.
    """
    if isinstance(error, Stopped):
        print(error, flush=True)
        return STOPPED
    print(paragraph(error), file=sys.stderr)
    return exit_status(error)
