"""Figures, answer and page from the files that evaluations leave."""

import json
import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

from nsneg_jax.comparison import outcome as outcomes
from nsneg_jax.comparison.columns import COLUMNS, CORRUPTIONS
from nsneg_jax.comparison.outcome import ALL
from nsneg_jax.comparison.page import examples, page
from nsneg_jax.comparison.planning import Plan, sizes
from nsneg_jax.errors import UsageError
from nsneg_jax.files import write_json, write_npz

PICTURES = 400
PARTS = [c.name for c in COLUMNS if c.name != "corruption"]
PARTS += [f"corruption-{name}-{level}" for name, level in CORRUPTIONS]


@pytest.fixture
def store(tmp_path):
    """Stores the evaluation of a run whose pictures are recognised at a rate by part."""

    def write(variant, seed, rate, but=()):
        workdir = tmp_path / f"{variant}-{seed}-test"
        names = np.array([f"{'rose' if i % 2 else 'tulip'}/{i:07d}.png" for i in range(PICTURES)])
        for place, part in enumerate(PARTS):
            # the same pictures are easy in every run
            easy = np.random.default_rng(place).random(PICTURES)
            order = np.random.default_rng(seed).permutation(PICTURES)
            right = easy < dict(but).get(part, rate)
            arrays = {"names": names[order], "top1": right[order]}
            write_npz(workdir / "parts" / f"{part}.npz", arrays)
        write_json(workdir / "results.json", {})

    return write


def read(tmp_path, variants=("moco", "patch2"), seeds=(0, 1, 2)):
    assert outcomes.complete_seeds(variants, seeds, tmp_path) == seeds
    return outcomes.read(variants, seeds, tmp_path)


def test_better_in_every_column(store, tmp_path):
    for seed in range(3):
        store("moco", seed, 0.6 + seed / 100)
        store("patch2", seed, 0.7 + seed / 50)
        store("patch1", seed, 0.5)
    found = read(tmp_path, ("moco", "patch2", "patch1"))
    assert (found.answer, found.answers) == ("yes", {"patch2": "yes", "patch1": "no"})
    assert found.gains["patch2"][ALL].mean == pytest.approx(11, abs=1)
    assert found.sentence.startswith("Yes") and "(MoCo, alpha 2: +" in found.sentence
    assert "alpha 1: no" in found.sentence
    assert (found.pictures, found.chance) == (PICTURES, 50)
    values = json.loads(json.dumps(outcomes.plain(found), allow_nan=False))
    assert values["answer"] == "yes" and len(values["gains"]["patch2"]["clean"]["by_seed"]) == 3


def test_another_method_has_its_own_baseline(store, tmp_path):
    for seed in range(3):
        store("byol", seed, 0.7)
        store("byol+patch", seed, 0.6)
    found = read(tmp_path, ("byol", "byol+patch"))
    assert (found.baseline, found.answers) == ("byol", {"byol+patch": "no"})
    assert "(BYOL, alpha 0.5: -" in found.sentence
    assert "BYOL, patch, alpha 0.5: minus BYOL" in outcomes.markdown(found)


def test_shuffled_pictures_do_not_count_and_each_column_counts_the_same(store, tmp_path):
    for seed in range(3):
        store("moco", seed, 0.7)
        store("patch2", seed, 0.7, {"shuffled": 0.1, "edges": 0.78, "corruption-fog-3": 0.0})
    found = read(tmp_path)
    gains = {name: each.mean for name, each in found.gains["patch2"].items()}
    assert gains["shuffled"] < -50 and gains["clean"] == 0
    assert gains["corruption"] == pytest.approx(-70 / 4, abs=2)
    assert gains[ALL] == pytest.approx((gains["edges"] + gains["corruption"]) / 4)


def test_encoders_that_have_learnt_nothing_leave_it_undecided(store, tmp_path):
    for seed in range(3):
        store("moco", seed, 0.5)
        store("patch2", seed, 0.4)
    assert read(tmp_path).answer == "undecided"


def test_a_seed_counts_once_all_its_runs_are_evaluated(store, tmp_path):
    for variant, seed in (("moco", 0), ("patch2", 0), ("moco", 1)):
        store(variant, seed, 0.6)
    assert outcomes.complete_seeds(("moco", "patch2"), (0, 1), tmp_path) == (0,)


def test_a_damaged_part_is_named(store, tmp_path):
    for variant in ("moco", "patch2"):
        store(variant, 0, 0.6)
    path = tmp_path / "patch2-0-test" / "parts" / "edges.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=re.escape(str(path))):
        outcomes.read(("moco", "patch2"), (0,), tmp_path)


def test_the_page(store, tmp_path):
    for seed in range(2):
        store("moco", seed, 0.6)
        store("patch2", seed, 0.9)
    pictures = tmp_path / "pictures-32"
    folders = [c.name for c in COLUMNS if c.name != "corruption"]
    folders += [f"corruption/{name}/{level}" for name, level in CORRUPTIONS]
    for value, folder in enumerate(folders):
        (pictures / folder / "rose").mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGB", (32, 32), (value, number, 0))
            image.save(pictures / folder / "rose" / f"{number}.png")
    shown = {column.name: row for column, row in examples(pictures, 2)}
    assert list(shown) == [column.name for column in COLUMNS]
    assert [picture[0, 0].tolist() for picture in shown["restyled"]] == [[1, 0, 0], [1, 2, 0]]
    about = {"data": "folder:<b>", "train": 100, "choose": 10, "test": 30, "held_out": "a fifth"}
    about |= {"classes": ["rose", "tulip"], "unreadable": 0}
    plan = Plan(("moco", "patch2"), (0, 1), 32, 5, 20, 1.0)
    make = partial(page, plan=plan, sizes=sizes(100), about=about, times={"time": "1:00"})
    text = make(read(tmp_path, seeds=(0, 1)), workdir=tmp_path, pictures=pictures)
    assert re.search("<p>Yes: patch negatives help", text) and "folder:&lt;b&gt;" in text
    assert text.count("data:image/png") == 3 * len(COLUMNS)
    assert not re.search(r'(src|href)="(?!data:|#)', text)
