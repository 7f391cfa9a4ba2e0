"""Errors that end a run with one clear paragraph instead of a traceback."""


class UsageError(Exception):
    """A mistake in the configuration, the command line or the data given.

    Its message names the value, what was expected and how to mend it; `main.py` exits with
    status 2.
    """


class RunError(Exception):
    """A run that cannot go on, for no mistake of the command's; `main.py` exits with status 1.

    Its message says what happened, what is safe, and how to go on.
    """
