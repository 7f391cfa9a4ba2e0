"""Random valid and invalid values of fields, by their kinds."""

import math
import random
from typing import Any

from nsneg_jax.jobs.fields import kinds
from nsneg_jax.jobs.fields.kinds import Kind
from nsneg_jax.jobs.fields.table import FIELDS


def _whole(kind: kinds.Whole, rng: random.Random) -> Any:
    drawn = rng.randint(kind.low, kind.high)
    return rng.choice([kind.low, kind.high, drawn, *kind.others])


def _not_whole(kind: kinds.Whole, rng: random.Random) -> list[Any]:
    numbers = [kind.low - 1 - rng.randrange(5), kind.high + 1 + rng.randrange(10**9), 2**80]
    numbers = [n for n in numbers if n not in kind.others]
    return [*numbers, 10**5000, 1.5, float(kind.low), True, "7", None, (kind.low,), math.nan]


def _number(kind: kinds.Number, rng: random.Random) -> Any:
    high = kind.high if not kind.below else math.nextafter(kind.high, kind.low)
    return rng.choice([kind.low, high, rng.uniform(kind.low, high), *[0] * kind.zero])


def _not_number(kind: kinds.Number, rng: random.Random) -> list[Any]:
    found: list[Any] = [kind.high * (1.001 + rng.random()), 1e300, math.inf, -math.inf, math.nan]
    found.append(-1e-9 - rng.random() if kind.low >= 0 else kind.low - 1)
    if kind.below:
        found.append(kind.high)
    if kind.low > 0:
        found += [kind.low / 2, 1e-300, *[0] * (not kind.zero)]
    return [*found, True, "0.1", None, (0.1,), 1j]


def _switch(kind: kinds.Switch, rng: random.Random) -> Any:
    return rng.random() < 0.5


def _text(kind: kinds.Text, rng: random.Random) -> Any:
    letters = [rng.choice("abc/:.~ é\U0001f600") for _ in range(rng.randint(1, 300))]
    return "".join(letters)


def _not_text(kind: kinds.Text, rng: random.Random) -> list[Any]:
    empty = [""] if kind.needed else []
    return [*empty, "a\0b", 3, None, True, ("a",), b"folder:x"]


def _choice(kind: kinds.Choice, rng: random.Random) -> Any:
    return rng.choice(kind.choices)


def _not_choice(kind: kinds.Choice, rng: random.Random) -> list[Any]:
    name = rng.choice(kind.choices)
    return [f"{name}x", name.upper() + "_", "", " ", 0, None, True, (name,), "é" * 500]


def _names(kind: kinds.Names, rng: random.Random) -> Any:
    return ",".join(rng.sample(kind.names, rng.randint(0, len(kind.names))))


def _not_names(kind: kinds.Names, rng: random.Random) -> list[Any]:
    name = rng.choice(kind.names)
    return [f"{name}x", f"{name},{name}", f"{name},", ",", f"{name};", 0, None, True, (name,)]


def _weighted(kind: kinds.Weighted, rng: random.Random) -> Any:
    parts = ["patch", "low_frequency:2", "colour_histogram@0.5", "amplitude_only:3@1e-1"]
    return rng.choice([",", ", "]).join(rng.sample(parts, rng.randint(0, len(parts))))


def _not_weighted(kind: kinds.Weighted, rng: random.Random) -> list[Any]:
    part = rng.choice(["patch", "low_frequency:2", "colour_histogram@0.5"])
    bad = [f"{part},", f"{part};", f"{part}@x", f"{part}:", "@1", ":2", "patch:-1", "patch:1.5"]
    return [*bad, 0, None, True, (part,), math.nan]


def _pair(kind: kinds.Pair, rng: random.Random) -> Any:
    values = [valid_value(kind.of, rng) for _ in range(2)]
    return tuple(sorted(values))


def _not_pair(kind: kinds.Pair, rng: random.Random) -> list[Any]:
    low, high = kind.of.low, kind.of.high
    bad = [(each, each) for each in invalid_values(kind.of, rng)]
    return [*bad, (high, low), (low,), (low, low, high), (), low, None, "ab", ("a", "b"),
            (low, None), (low, True), ((low, high),)]  # fmt: skip


def _each(kind: kinds.Each, rng: random.Random) -> Any:
    return tuple(valid_value(each, rng) for _, each in kind.of)


def _not_each(kind: kinds.Each, rng: random.Random) -> list[Any]:
    good = list(_each(kind, rng))
    found: list[Any] = [tuple(good[:-1]), (*good, 0.1), (), None, good[0], "0.4", tuple("abcd")]
    for place, (_, each) in enumerate(kind.of):
        for bad in invalid_values(each, rng):
            found.append((*good[:place], bad, *good[place + 1 :]))
    return found


def _several(kind: kinds.Several, rng: random.Random) -> Any:
    count = rng.randint(kind.least, min(kind.most, 5))
    values = {valid_value(kind.of, rng) for _ in range(count)} or {valid_value(kind.of, rng)}
    return tuple(sorted(values))


def _not_several(kind: kinds.Several, rng: random.Random) -> list[Any]:
    one = valid_value(kind.of, rng)
    found: list[Any] = [(each,) for each in invalid_values(kind.of, rng)]
    found += [(one, one), one, None, "a", ("a",), (one, "a"), tuple(range(10**4))]
    found += [()] if kind.least else []
    found += [(kind.of.high, kind.of.low)] if kind.rising else []
    return found


VALID: dict[type, Any] = {
    kinds.Whole: _whole, kinds.Number: _number, kinds.Switch: _switch, kinds.Text: _text,
    kinds.Choice: _choice, kinds.Names: _names, kinds.Pair: _pair, kinds.Each: _each,
    kinds.Several: _several, kinds.Weighted: _weighted,
}  # fmt: skip
INVALID: dict[type, Any] = {
    kinds.Whole: _not_whole, kinds.Number: _not_number, kinds.Text: _not_text,
    kinds.Switch: lambda kind, rng: [0, 1, "True", "yes", None, (True,), 1.0],
    kinds.Choice: _not_choice, kinds.Names: _not_names, kinds.Pair: _not_pair,
    kinds.Each: _not_each, kinds.Several: _not_several,
    kinds.Weighted: _not_weighted,
}  # fmt: skip


def valid_value(kind: Kind, rng: random.Random) -> Any:
    """A value that the kind holds."""
    return VALID[type(kind)](kind, rng)


def invalid_values(kind: Kind, rng: random.Random) -> list[Any]:
    """Values that the kind does not hold: beyond its ends, of other types, and odd ones."""
    return INVALID[type(kind)](kind, rng)


def changes(seed: int, count: int) -> list[tuple[str, str, str]]:
    """Random wrong settings of single fields for command lines: (job, field, text of the value)."""
    rng = random.Random(seed)
    found: dict[tuple[str, str, str], None] = {}
    while len(found) < count:
        job = rng.choice(["pretrain", "linear", "evaluate"])
        row = rng.choice([row for row in FIELDS[job] if row.name != "job"])
        value = rng.choice(invalid_values(row.kind, rng))
        try:
            text = str(value)
        except ValueError:  # Python writes no number of more than 4,300 digits
            text = "9" * 5000
        if isinstance(row.kind, kinds.Text | kinds.Switch):
            continue  # any text without a null is valid, and 'yes' and 1 are switches
        if "\0" in text or _would_hold(row.kind, text):
            continue
        name = row.name.replace("*", rng.choice(["clean", "sketch"]))
        found[job, name, text] = None
    return list(found)


def _would_hold(kind: Kind, text: str) -> bool:
    """Whether the command line makes a valid value of a text."""
    import ast

    if isinstance(kind, kinds.Choice):
        return kind.holds(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    if isinstance(kind, kinds.Pair | kinds.Each | kinds.Several) and not isinstance(value, tuple):
        value = (value,)
    return kind.holds(value) or (isinstance(kind, kinds.Number) and kind.holds(float(value))
                                 if isinstance(value, int) else False)  # fmt: skip
