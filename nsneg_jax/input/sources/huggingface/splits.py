"""The files and features of a local data set of Hugging Face, without the library `datasets`.

It is either a folder made by `save_to_disk`, or Parquet files as the hub has them. There the names
of splits and configs are in README.md or, failing that, in the names of files and folders:
data/train-00000-of-00005.parquet, CONFIG/train-00000-of-00005.parquet, CONFIG/train/0000.parquet.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.classes import some

_SHARD = re.compile(r"(?P<split>\w[\w.]*?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_PART = re.compile(r"(part-?)?\d+.*")
_SPLITS = ("train", "validation", "valid", "val", "dev", "test")
_LAYOUT = (
    "Expected a folder made by `save_to_disk`, or Parquet files such as "
    "data/train-00000-of-00005.parquet"
)
# Names of a split, the wanted one first.
_ALIASES = {"val": ("val", "validation", "valid", "dev")}


class Files(NamedTuple):
    """The files of a split, in order.

    Attributes:
        paths: the files.
        is_parquet: whether they are Parquet, rather than Arrow files.
        features: JSON features of `datasets` by column, as far as a file beside the data has them.
    """

    paths: tuple[str, ...]
    is_parquet: bool
    features: Mapping[str, Any]


def find_files(where: str, split: str) -> Files:
    """Finds the files of a split.

    Args:
        where: PATH of the data set, or PATH/CONFIG.
        split: name of the split; '.' for the only one, or 'validation'; 'val' also for that.

    Raises:
        UsageError: there is no such data set, config or split; the message says what is there.
    """
    root, config = Path(where), ""
    if not root.is_dir():
        root, config = root.parent, root.name
    if not root.is_dir():
        raise UsageError(f"There is no data set hf:{where}. {_LAYOUT}.")
    saved = _saved(root / config)
    if saved:
        folders = {
            name: folder for name, folder in saved.items() if (folder / "state.json").exists()
        }
        folder = folders[_chosen(where, split, tuple(folders))]
        state, info = (_json(folder / name) for name in ("state.json", "dataset_info.json"))
        if state.get("_indices_data_files"):
            raise UsageError(
                f"{folder} was saved with a selection of its rows by an old version of `datasets`. "
                "Save it again with a current one: datasets.load_from_disk(...).save_to_disk(...)."
            )
        paths = tuple(str(folder / each["filename"]) for each in state["_data_files"])
        return Files(paths, False, info.get("features") or {})
    card = _card(root) or _card(root.parent)
    configs = _declared(root, card) or _by_name(root)
    splits = _of_config(where, configs, config)
    paths = tuple(map(str, splits[_chosen(where, split, tuple(splits))]))
    return Files(paths, True, _card_features(card, config))


def _saved(folder: Path) -> dict[str, Path]:
    """Returns the folders of the splits that `save_to_disk` has made; {} if it made none."""
    if (folder / "dataset_dict.json").is_file():
        return {name: folder / name for name in _json(folder / "dataset_dict.json")["splits"]}
    if (folder / "state.json").is_file():
        return {_json(folder / "state.json").get("_split") or "train": folder}
    return {}


def _chosen(where: str, wanted: str, there: Sequence[str]) -> str:
    if wanted in there:
        return wanted
    if wanted in (".", "") and len(there) == 1:
        return there[0]
    for name in _ALIASES["val"] if wanted in (".", "", "val", "validation") else ():
        if name in there:
            return name
    raise UsageError(
        f"hf:{where} has no split {wanted!r}. Set the field that names it (data.split or "
        f"data.eval_split) to one of {', '.join(there) or 'none'}."
    )


def _of_config(
    where: str, configs: Mapping[str, dict[str, list[Path]]], wanted: str
) -> dict[str, list[Path]]:
    if not configs:
        raise UsageError(f"There is no data set hf:{where}: no Parquet files are there. {_LAYOUT}.")
    name = wanted
    if not wanted:
        name = next((each for each in ("", "default") if each in configs), "")
        if len(configs) == 1:
            name = next(iter(configs))
    if name not in configs:
        raise UsageError(
            f"hf:{where} {f'has no config {wanted!r}' if wanted else 'has several configs'}. Name "
            f"one as hf:PATH/CONFIG: {some(sorted(configs))}."
        )
    return configs[name]


def _declared(root: Path, card: Mapping[str, Any]) -> dict[str, dict[str, list[Path]]]:
    """Returns files by config and split as the README's `configs` give them."""
    found: dict[str, dict[str, list[Path]]] = {}
    for each in card.get("configs") or ():
        splits = found.setdefault(str(each.get("config_name", "default")), {})
        for split, pattern in _patterns(each.get("data_files")):
            paths = (path for path in root.glob(pattern) if path.suffix == ".parquet")
            splits.setdefault(split, []).extend(sorted(paths))
    configs = {
        name: {split: paths for split, paths in splits.items() if paths}
        for name, splits in found.items()
    }
    return {name: splits for name, splits in configs.items() if splits}


def _patterns(given: Any) -> Iterator[tuple[str, str]]:
    """Yields (split, pattern) of the forms that `data_files` may have."""
    if isinstance(given, str):
        yield "train", given
    elif isinstance(given, Mapping):
        for split, patterns in given.items():
            yield from ((split, each) for each in _listed(patterns))
    else:
        for entry in given or ():
            if isinstance(entry, str):
                yield "train", entry
            else:
                yield from ((entry["split"], each) for each in _listed(entry["path"]))


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _by_name(root: Path) -> dict[str, dict[str, list[Path]]]:
    """Returns files by config ('' for none) and split, from their names."""
    found: dict[str, dict[str, list[Path]]] = {}
    paths = (path for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}*.parquet"))
    for path in sorted(paths):
        above = [part for part in path.relative_to(root).parts[:-1] if part != "data"]
        shard = _SHARD.fullmatch(path.stem)
        if shard:
            split = shard["split"]
        elif path.stem in _SPLITS:
            split = path.stem
        elif above and (above[-1] in _SPLITS or _PART.fullmatch(path.stem)):
            split = above.pop()
        else:
            split = "train"
        found.setdefault("/".join(above), {}).setdefault(split, []).append(path)
    return found


def _card(folder: Path) -> dict[str, Any]:
    """Returns the YAML at the head of a README; {} if there is none."""
    import yaml

    path = folder / "README.md"
    if not path.is_file():
        return {}
    match = re.match(r"\ufeff?---\s*\n(.*?\n)---", path.read_text("utf-8", "replace"), re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        found = {}
    return found if isinstance(found, dict) else {}


def _card_features(card: Mapping[str, Any], config: str) -> dict[str, Any]:
    """Returns the README's features in the form of `datasets`' own JSON."""
    given = card.get("dataset_info") or {}
    infos = given if isinstance(given, list) else [given]
    info = next((each for each in infos if each.get("config_name") == config), infos[0])
    found: dict[str, Any] = {}
    for feature in info.get("features") or ():
        kind = feature.get("dtype")
        if kind == "image":
            found[feature["name"]] = {"_type": "Image"}
        elif isinstance(kind, Mapping) and "class_label" in kind:
            names = kind["class_label"].get("names") or {}
            if isinstance(names, Mapping):
                names = [names[key] for key in sorted(names, key=int)]
            found[feature["name"]] = {"_type": "ClassLabel", "names": list(map(str, names))}
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}. Copy the data set again.") from error
