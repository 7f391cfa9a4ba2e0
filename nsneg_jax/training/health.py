"""Notices a training that goes wrong: embeddings that collapse, and a loss that is not finite."""

from collections.abc import Mapping
from typing import Any

from nsneg_jax.training.checkpoints.checkpoint import Checkpoints

# A sign of collapse is a mean over `collapse_steps` steps below these; docs/reliability.md has the
# runs, with and without a collapse, that they come from.
GAP = 0.03  # positive minus negative similarity
CHANCE = 4.0  # top-5 accuracy of the contrast task, as a multiple of guessing
MOST_CHANCE = 25.0  # % beyond which a multiple of guessing says nothing: with few choices
SPREAD = 0.05  # embedding_std
_WATCHED = ("positive_similarity", "negative_similarity", "accuracy_top5", "embedding_std")


class CollapseWatch:
    """Averages the metrics of a pre-training over blocks of steps, and looks for a collapse.

    The first block is not judged: with non-semantic negatives the embeddings of a batch may be
    nearly equal for some hundred steps at first. A method without some of the metrics is not judged
    by these. Checkpoints store `totals`.

    Args:
        steps: least number of steps in a block; greater than 0.
        choices: 1 + K + M, the choices of the contrast task; 0 if its accuracy says nothing.
        at: steps done so far.
        sums: sum and number of steps per metric in the block so far.
        found: the collapse that was found before; None without one.
    """

    def __init__(
        self,
        steps: int,
        choices: int,
        at: int = 0,
        sums: Mapping[str, tuple[float, int]] | None = None,
        found: Mapping[str, Any] | None = None,
    ) -> None:
        self._steps = steps
        self._choices = choices
        self._at = at
        self._begun = at - max((count for _, count in (sums or {}).values()), default=0)
        self._sums = {name: (total, count) for name, (total, count) in (sums or {}).items()}
        self.found = found

    def add(self, step: int, figures: Mapping[str, float]) -> Mapping[str, Any] | None:
        """Adds the means since the last call; returns the first collapse once it is found.

        Args:
            step: steps done.
            figures: means of metrics by name.
        """
        count, self._at = step - self._at, step
        for name in _WATCHED:
            if name in figures:
                total, before = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + count * figures[name], before + count
        if step - self._begun < self._steps:
            return None
        means = {name: total / number for name, (total, number) in self._sums.items()}
        seen = signs(means, self._choices)
        block = {"from": self._begun + 1, "to": step, "signs": seen, "means": means}
        is_first, self._sums, self._begun = self._begun == 0, {}, step
        if not seen or is_first or self.found is not None:
            return None
        self.found = block
        return block

    def totals(self) -> dict[str, Any]:
        """Returns arguments with which `CollapseWatch(steps, choices, **totals)` continues."""
        return {"at": self._at, "sums": dict(self._sums), "found": self.found}


def signs(means: Mapping[str, float], choices: int) -> list[str]:
    """Describes the signs of a collapse in the means of metrics; [] if there are none."""
    found = []
    positive, negative = means.get("positive_similarity"), means.get("negative_similarity")
    if positive is not None and negative is not None and positive - negative < GAP:
        found.append(
            f"the similarities of positives and negatives meet ({positive:.3f} and {negative:.3f})"
        )
    accuracy = means.get("accuracy_top5")
    chance = CHANCE * 500 / choices if choices else 0
    if accuracy is not None and accuracy < chance < MOST_CHANCE:
        found.append(
            f"the contrast top-5 accuracy is at chance ({accuracy:.2g} % among {choices:,} choices)"
        )
    deviation = means.get("embedding_std")
    if deviation is not None and deviation < SPREAD:
        found.append(f"all embeddings are nearly equal (embedding_std {deviation:.2g})")
    return found


def collapse(found: Mapping[str, Any], section: str = "moco") -> str:
    """Returns what was found, the usual causes and what to change, as sentences.

    Args:
        found: see `CollapseWatch`.
        section: section of the config with the method's momentum and temperature.
    """
    return (
        f"The training has collapsed: in steps {found['from']:,} to {found['to']:,} "
        f"{', and '.join(found['signs'])}. Usual causes are a learning rate that is too high or a "
        "momentum near 1 (lower --config.optimizer.learning_rate or --config.optimizer.momentum, "
        "or set --config.optimizer.warmup_epochs), a key encoder or target that follows too fast "
        f"or not at all (--config.{section}.momentum, 0.99 to 0.999), a temperature far from 0.2 "
        f"(--config.{section}.temperature), a large --config.negatives.alpha, and images "
        "that are all alike (see pictures/views.png in the workdir). A changed config needs a new "
        "--workdir."
    )


def divergence(error: FloatingPointError, checkpoints: Checkpoints) -> str:
    """Returns what to say of a loss or parameters that are not finite, as sentences."""
    good, last = "There is no checkpoint yet", checkpoints.latest_step()
    if last is not None:
        good = f"The last good checkpoint is {checkpoints.folder / str(last)}"
    return (
        f"{error}, so the run stopped without saving it. {good}. Usual causes are a learning rate "
        "that is too high (--config.optimizer.learning_rate) and bfloat16 "
        "(--config.model.dtype=float32); a changed config needs a new --workdir."
    )
