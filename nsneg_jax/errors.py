"""Errors that end a run with one clear paragraph instead of a traceback."""

import sys
import textwrap


class UsageError(Exception):
    """A mistake in the configuration, the command line or the data given.

    Its message names the value, what was expected and how to mend it; commands exit with
    status 2.
    """


class RunError(Exception):
    """A run that cannot go on, for no mistake of the command's; commands exit with status 1.

    Its message says what happened, what is safe, and how to go on.
    """


def paragraph(error: Exception) -> str:
    """The message as a terminal shows it: lines of 100 characters, paths in one piece."""
    return textwrap.fill(f"error: {error}", 100, break_on_hyphens=False, break_long_words=False)


def exit_status(error: Exception) -> int:
    """The exit status of a command that `error` ends: 2 for a mistake of the user's, else 1."""
    return 2 if isinstance(error, UsageError) else 1


def tell(error: Exception) -> int:
    """Prints the message to the standard error; returns the exit status."""
    print(paragraph(error), file=sys.stderr)
    return exit_status(error)
