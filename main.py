"""Runs one job: python main.py --config=FILE[:variant] --workdir=DIR [--config.field=value]."""

import sys

from nsneg_jax import command_line
from nsneg_jax.errors import RunError, UsageError, paragraph


def run(command: command_line.Command) -> None:
    if command.config.job == "pretrain":
        from nsneg_jax.pretrain import pretrain

        pretrain(command.config, command.workdir)
    else:
        raise UsageError(f"job is {command.config.job!r}, but must be 'pretrain'.")


def main(argv: list[str]) -> int:
    """Returns the exit status: 0 done or stopped cleanly, 2 a user's mistake, 1 otherwise."""
    try:
        run(command_line.parse(argv))
    except (UsageError, RunError) as error:
        print(paragraph(error), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
