"""Writes docs/fields.md, the page of all fields: python -m nsneg_jax.jobs.fields.page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nsneg_jax.files import write_text
from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice
from nsneg_jax.jobs.fields.table import EVALUATION, FINETUNING, OF_SETS, PRETRAINING, PROBING

PAGE = Path(__file__).parents[3] / "docs" / "fields.md"

_HEAD = """# Fields of the configs

Every field of every job: its default, what is valid, and what it does. Set one with
`--config.FIELD=VALUE`. A value that is not valid ends the command with one paragraph and exit
status 2, before any data or device is touched. Rules between fields are in the meanings.
`python main.py --config=FILE --help` shows the values of one config.

This page is generated from the tables in `nsneg_jax/jobs/fields/` by
`python -m nsneg_jax.jobs.fields.page`. Sizes in pixels "at 224" are for `data.image_size` 224 and
scale with it."""
_TABLES = (
    (
        "pretrain",
        "`configs/patch.py`, `moco.py`, `texture.py`, `ifm.py`, `claim.py`, `byol.py`, "
        "`simclr.py`, `mocov3.py`.",
        PRETRAINING,
    ),
    ("linear, knn, features", "`configs/linear.py`.", PROBING),
    ("finetune", "`configs/finetune.py`.", FINETUNING),
    ("evaluate", "`configs/evaluate.py`.", EVALUATION),
    ("A test set of evaluate", "Each entry of `sets`; `*` stands for its name.", OF_SETS),
)


def page() -> str:
    """Returns the text of the page."""
    parts = [_HEAD]
    for title, configs, fields in _TABLES:
        parts.append(f"## {title}\n\n{configs}\n\n" + "\n".join(_table(fields)))
    return "\n\n".join(parts) + "\n"


def _table(fields: Sequence[Field]) -> Iterator[str]:
    yield "| field | default | valid | meaning |"
    yield "|---|---|---|---|"
    for field in fields:
        kind = field.kind
        names = ", ".join(map(repr, kind.own)) if isinstance(kind, Choice) else kind.expected
        valid = names + (f". Reason: {field.reason}" if field.reason else "")
        cells = (f"`{field.name}`", f"`{_default(field)}`", valid, field.meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: Field) -> str:
    return field.named_default or repr(field.value)


if __name__ == "__main__":
    write_text(PAGE, page())
    print(PAGE)
