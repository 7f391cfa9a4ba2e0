"""Checks rules between the fields of a config."""

from ml_collections import ConfigDict

from nsneg_jax.jobs.fields.field import wrong
from nsneg_jax.jobs.fields.table import check_fields
from nsneg_jax.training.workdir import flatten

FEWEST_PER_GROUP = 2  # images of a batch-norm group


class Checker:
    """Raises UsageError for the first field with an unexpected value.

    Each field alone is checked at once, by its row in the tables of this folder.
    """

    def __init__(self, config: ConfigDict, job: str | None = None):
        check_fields(config, job)
        self.fields = flatten(config.to_dict())

    def expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise wrong(name, self.fields[name], expected)

    def divisible_batch(self, devices: int) -> None:
        self.expect(
            "batch_size",
            self.fields["batch_size"] % devices == 0,
            f"a multiple of the number of devices, {devices}",
        )
