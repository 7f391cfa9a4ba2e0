"""ReaL and ObjectNet through the whole job: their images are chosen from other sources."""

import json

import numpy as np
from answering import a_config, answering_probe, probe_checkpoint, run, write_image

from nsneg_jax.evaluation.protocols.imagenet import wnids

TEN = tuple(sorted(wnids()[:10]))


def probe(monkeypatch, tmp_path):
    answering_probe(monkeypatch, tmp_path / "patched")
    return probe_checkpoint(tmp_path / "probe", np.eye(32, 10, dtype=np.float32) * 5, TEN)


def rows(workdir, name) -> dict[str, list[str]]:
    """The rows of a set in per_class.tsv by class."""
    lines = [line.split("\t") for line in (workdir / "per_class.tsv").read_text().splitlines()]
    return {line[1]: line[2:4] for line in lines if line[0] == name}


def write_mapping(folder, categories) -> None:
    """ObjectNet's four files, for categories with indices in `TEN`."""
    folder.mkdir(parents=True)
    indices = sorted({i for right in categories.values() for i in right})
    shared = {name: "; ".join(f"label {i}" for i in own) for name, own in categories.items() if own}
    lines = {str(wnids().index(TEN[i])): number for number, i in enumerate(indices)}
    for name, content in {
        "folder_to_objectnet_label.json": {name: name for name in categories},
        "objectnet_to_imagenet_1k.json": shared,
        "pytorch_to_imagenet_2012_id.json": lines,
    }.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "imagenet_to_label_2012_v2").write_text("\n".join(f"label {i}" for i in indices))


def test_real(monkeypatch, tmp_path):
    root = tmp_path / "images"
    for number, (own, answer) in enumerate([(2, 2), (2, 3), (5, 5), (5, 1)], 1):
        file = f"val/{TEN[own]}/ILSVRC2012_val_{number:08}.png"
        write_image(root / file, answer)
    labels = [[wnids().index(TEN[i]) for i in right] for right in ([2], [2, 3], [], [5])]
    (tmp_path / "real.json").write_text(json.dumps(labels))
    where = {"sets.real.source": f"folder:{root}", "sets.real.labels": str(tmp_path / "real.json")}
    config = a_config(probe(monkeypatch, tmp_path), "real", **where)
    out = tmp_path / "out"
    figures = run(config, out)["real"]
    assert figures["images"] == 3 and round(figures["accuracy_top1"], 2) == 66.67
    assert figures["by_class"] == {TEN[2]: 100, TEN[5]: 0}
    assert rows(out, "real") == {TEN[2]: ["2", "100.0000"], TEN[5]: ["1", "0.0000"]}
    assert run(config, out)["real"] == figures  # from its kept part


def test_objectnet(monkeypatch, tmp_path):
    """Accuracies by class are those of its own categories, which may share a class."""
    root = tmp_path / "objectnet-1.0"
    categories = {"chair": [4], "mug": [7, 8], "spoon": []}
    for folder, answers in {"chair": (4, 4, 1), "mug": (8, 7), "spoon": (1,)}.items():
        for i, answer in enumerate(answers):
            write_image(root / "images" / folder / f"{i}.png", answer, size=(24, 24))
    write_mapping(root / "mappings", categories)
    config = a_config(
        probe(monkeypatch, tmp_path), "objectnet", **{"sets.objectnet.source": f"folder:{root}"}
    )
    out = tmp_path / "out"
    figures = run(config, out)["objectnet"]
    assert figures["images"] == 5 and figures["accuracy_top1"] == 80
    assert {name: round(value) for name, value in figures["by_class"].items()} == {
        "chair": 67, "mug": 100,
    }  # fmt: skip
    assert rows(out, "objectnet") == {"chair": ["3", "66.6667"], "mug": ["2", "100.0000"]}
