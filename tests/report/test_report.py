"""Tables of stored results.json files: exact text, worked out by hand."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import stored_results
from stored_results import corruption, cue_conflict, evaluation, top1

from nsneg_jax.corruptions import CORRUPTIONS
from nsneg_jax.report import command as report
from nsneg_jax.report import published
from nsneg_jax.report.rows import SET_TITLES

GENERATED = "generated: made by this package or by TFDS, not the released files."


@pytest.fixture
def store(tmp_path):
    return partial(stored_results.store, tmp_path)


@pytest.fixture
def tables(store):
    """The report's Markdown of stored results."""

    def tables(*contents, shown=""):
        return report.report(report.read_results(store(*contents)), shown)[0]

    return tables


def cells(table, row):
    """The texts of the main table's row that begins with `row`, by column."""
    lines = [[text.strip() for text in line.strip("|").split(" | ")] for line in table.splitlines()]
    found = next(line for line in lines if f"{line[0]} ".startswith(row))
    return dict(zip(lines[0], found, strict=True))


def test_pooled_table_is_exact(tables):
    table = tables(
        evaluation("a0", "patch", clean=top1(70.0), sketch=top1(30.0)),
        evaluation("a1", "patch", clean=top1(72.0), sketch=top1(33.0)),
        evaluation("a2", "patch", clean=top1(77.0), sketch=top1(36.0)),
        evaluation("b", clean=top1(74.5), sketch=top1(31.0), stylized=top1(15.0)),
        {"job": "knn", "encoder": "b", "knn_20": 40.0, "knn_200": 44.56},
        {"job": "linear", "encoder": "a0", "best_accuracy_top1": 70.0, "accuracy_top5": 90.0},
        shown="none",
    )
    # 70, 72, 77: mean 73, squared deviations 9 + 1 + 16 = 26, over 2: 13
    main, rest = table.split("\n\nSingle runs by set:\n\n")
    assert main == (
        "| run   | n   | ImageNet-100 | Corruption | Sketch         | Stylized | Rendition "
        "| kNN, k = 20 | kNN, k = 200 | linear probe, top-1 | top-5       |\n"
        "| ----- | --- | ------------ | ---------- | -------------- | -------- | --------- "
        "| ----------- | ------------ | ------------------- | ----------- |\n"
        "| patch | 3   | 73.00±3.61   | -          | **33.00±3.00** | -        | -         "
        "| -           | -            | 70.00 (n=1)         | 90.00 (n=1) |\n"
        "| b     | 1   | **74.50**    | -          | 31.00          | 15.00    | -         "
        "| 40.00       | 44.56        | -                   | -           |\n"
        "\n"
        "All figures in %. Of n runs: mean±sample standard deviation. Bold: the best of ours."
    )
    assert rest == (
        "| run | set          | top-1 | 95 % interval  | top-5 | calibration error | images "
        "| unreadable | generated |\n"
        "| --- | ------------ | ----- | -------------- | ----- | ----------------- | ------ "
        "| ---------- | --------- |\n"
        "| b   | ImageNet-100 | 74.50 | 73.50 to 76.00 | 90.00 | 3.25              | 5,000  "
        "| 0          | no        |\n"
        "| b   | Sketch       | 31.00 | 30.00 to 32.50 | 90.00 | 3.25              | 5,000  "
        "| 0          | no        |\n"
        "| b   | Stylized     | 15.00 | 14.00 to 16.50 | 90.00 | 3.25              | 5,000  "
        "| 0          | no        |"
    )


def test_accuracies_by_class_come_from_textures_and_clean_images(store):
    classes = {"owl": 50.0, "pot": 20.0, "rug": 20.0}

    def textures(**by_class):
        return top1(30.0, protocol="texture", by_class=by_class)

    runs = store(
        evaluation("a0", "a", clean=top1(70.0, by_class=classes), texture=textures(owl=10, rug=90)),
        evaluation("a1", "a", clean=top1(70.0, by_class=classes), texture=textures(owl=20, rug=70)),
        evaluation("b", clean=top1(75.0), texture=textures(owl=35, pot=5, rug=40)),
    )
    results = report.read_results(runs)
    table = report.report(results, by_class=True)[0].split("\n\n")[-1]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == ["class", "a, ImageNet-100", "a, Texture", "b, Texture"]
    assert cells[2:] == [
        ["rug", "20.0", "80.0", "40.0"],
        ["owl", "50.0", "15.0", "35.0"],
        ["pot", "20.0", "-", "5.0"],
    ]
    plain = report.report(results)[0]
    assert "by class" not in plain and "**30.00**" not in plain  # no figure to maximise


def test_single_row_without_bold_and_with_footnotes(tables):
    parts = {name: {str(s): 40.0 for s in range(1, 6)} for name in CORRUPTIONS[:12]}
    table = tables(
        evaluation(
            "a",
            missing={"v2": "/data/v2 is not there;\n get it"},
            clean=top1(70.0, unreadable=2),
            corruption=corruption(
                40.0, parts, generated=True, files_seen=3000, mean_15=None, mean_19=38.5
            ),
            cue_conflict=cue_conflict(),
        ),
        shown="none",
    )
    assert table == (
        "| run | ImageNet-100 (1) | Corruption (2) (3) (4) | Sketch | Stylized | Rendition "
        "| shape bias (5) |\n"
        "| --- | ---------------- | ---------------------- | ------ | -------- | --------- "
        "| -------------- |\n"
        "| a   | 70.00            | 40.00                  | -      | -        | -         "
        "| 62.24          |\n"
        "\n"
        "All figures in %.\n"
        "\n"
        "* (1) 2 unreadable images are left out.\n"
        f"* (2) {GENERATED}\n"
        "* (3) 3,000 of 375,000 files.\n"
        "* (4) mean over 60 of the 75 settings (corruption and severity).\n"
        "* (5) restricted to 2 categories: bird, cat.\n"
        "\n"
        "Not found by the evaluation:\n"
        "\n"
        "* v2: /data/v2 is not there; get it\n"
        "\n"
        "Single runs by set:\n"
        "\n"
        "| run | set                    | top-1 | 95 % interval  | top-5 | calibration error "
        "| images | unreadable | generated |\n"
        "| --- | ---------------------- | ----- | -------------- | ----- | ----------------- "
        "| ------ | ---------- | --------- |\n"
        "| a   | ImageNet-100           | 70.00 | 69.00 to 71.50 | 90.00 | 3.25              "
        "| 5,000  | 2          | no        |\n"
        "| a   | Corruption             | 40.00 | 39.00 to 41.50 | 90.00 | 3.25              "
        "| 5,000  | 0          | yes       |\n"
        "| a   | Corruption, mean of 19 | 38.50 | -              | -     | -                 "
        "| -      | -          | yes       |\n"
        "\n"
        "Single runs on cue conflicts:\n"
        "\n"
        "| run | set        | shape bias | shape decisions | texture decisions | shape accuracy "
        "| texture accuracy | images | unreadable | generated |\n"
        "| --- | ---------- | ---------- | --------------- | ----------------- | -------------- "
        "| ---------------- | ------ | ---------- | --------- |\n"
        "| a   | shape bias | 62.24      | 412             | 250               | 26.41          "
        "| 16.03            | 1,560  | 0          | no        |"
    )


def test_columns_are_in_the_papers_order(tables):
    sets = {name: top1(20.0) for name in ["zebra", *reversed(SET_TITLES), "aardvark"]}
    sets |= {"corruption": corruption(20.0), "cue_conflict": cue_conflict(restricted=False)}
    table = tables(
        {"job": "linear", "encoder": "a", "best_accuracy_top1": 1.0, "accuracy_top5": 2.0},
        {"job": "knn", "encoder": "a", "knn_200": 2.0, "knn_20": 1.0, "knn_5": 1.0},
        evaluation("a", cue=cue_conflict(restricted=False), **sets),
        shown="none",
    )
    assert [text.strip() for text in table.splitlines()[0].strip("|").split(" | ")] == [
        "run",
        *("ImageNet-100", "Corruption", "Sketch", "Stylized", "Rendition"),
        *("Rendition (19-way)", "V2", "A", "Texture", "A (its classes)", "ReaL", "ObjectNet"),
        *("Corruption-bar", "Suppression", "zebra", "aardvark"),
        *("cue, shape bias", "shape bias"),
        *("kNN, k = 5", "kNN, k = 20", "kNN, k = 200", "linear probe, top-1", "top-5"),
    ]


def test_marks_of_some_rows_are_in_their_cells_and_take_the_bold_away(tables):
    runs = [
        evaluation("a", clean=top1(70.0), corruption=corruption(40.0, generated=True)),
        evaluation("b", clean=top1(70.001), corruption=corruption(35.0)),
    ]
    table = tables(*runs, shown="none")
    assert cells(table, "a ")["Corruption"] == "40.00 (1)"
    assert cells(table, "b ")["Corruption"] == "35.00"
    assert f"* (1) {GENERATED}" in table
    # what is equal as shown is equally good
    assert [cells(table, row)["ImageNet-100"] for row in ("a ", "b ")] == ["**70.00**"] * 2
    # beside published figures, which are of released files, the mark cannot be the column's
    shown = tables(runs[0], shown="A")
    assert cells(shown, "a ")["Corruption"] == "40.00 (1)"


def test_numbers_of_classes_are_told_apart(tables):
    table = tables(
        evaluation("a", clean=top1(70.0)),
        evaluation("b", clean=top1(90.0, classes=10, ways=10)),
    )
    assert cells(table, "a ")["Clean"] == "70.00 (1)"
    assert cells(table, "b ")["Clean"] == "90.00 (2)"
    assert "* (2) number of classes that can be answered: 10." in table


def test_published_rows_are_those_of_the_recipes_document(tables):
    document = Path(__file__).parents[2] / "docs" / "recipes.md"
    rows = [
        [text.strip() for text in line.strip().strip("|").split("|")]
        for line in document.read_text().splitlines()
        if line.startswith(("| A |", "| B |"))
    ]
    table = tables(evaluation("a", clean=top1(99.0)))
    for recipe, negatives, queue, alpha, *figures in rows:
        negatives = "no negatives" if negatives == "none" else f"{negatives} negatives"
        name = f"published, recipe {recipe}: {negatives}, K {queue}"
        name += f", alpha {alpha} (" if alpha != "-" else " ("
        shown = cells(table, name)
        expected = ["- (2)" if figure == "(1)" else figure for figure in figures]
        titles = ("ImageNet-100", "Corruption", "Sketch", "Stylized", "Rendition")
        assert [shown[title] for title in titles] == expected
        assert shown["n"] == "3"
    assert len(rows) == len(published.ROWS) == 9
    assert [text.strip() for text in table.splitlines()[4].split("|")][1:8] == [
        "published, recipe A: texture negatives, K 16384, alpha 2 (1)",
        *("3", "77.76±0.17", "43.58±0.33", "29.11±0.39", "16.59±0.17", "33.36±0.15"),
    ]
    assert "**" not in table
    assert f"* (2) {published.REPEATED_CELL}" in table
    assert table.count(published.PROTOCOL_NOTE) == 1


def test_published_figures_are_never_bold(tables):
    table = tables(evaluation("a", clean=top1(81.49)), evaluation("b", clean=top1(80.0)))
    assert cells(table, "a ")["ImageNet-100"] == "**81.49**"
    name = "published, recipe B: patch negatives, K 16384"
    assert cells(table, name)["ImageNet-100"] == "81.49±0.11"


@pytest.mark.parametrize(
    ("clean", "shown", "recipes"),
    [
        ({}, "", {"A", "B"}),
        ({}, "none", set()),
        ({}, "B", {"B"}),
        ({"classes": 10}, "", set()),
        ({"classes": 10}, "A", {"A"}),
        ({"generated": True}, "", set()),
        ({"source": "shapes:100"}, "", set()),
        ({"source": "shapes:100"}, "all", {"A", "B"}),
    ],
)
def test_published_rows_stand_beside_imagenet100_only(tables, clean, shown, recipes):
    table = tables(evaluation("a", clean=top1(70.0, **clean)), shown=shown)
    assert {recipe for recipe in "AB" if f"recipe {recipe}:" in table} == recipes
    assert ("ImageNet-100 " in table.splitlines()[0]) == (not clean)


def test_no_published_rows_without_an_evaluation(tables):
    table = tables({"job": "knn", "encoder": "a|b", "knn_20": 40.0})
    assert table == (
        "| run  | kNN, k = 20 |\n| ---- | ----------- |\n| a\\|b | 40.00       |\n\n"
        "All figures in %."
    )


def test_other_versions_are_read_as_far_as_they_are_known(tables):
    table = tables(
        {
            "encoder": "a",
            "version": 9,
            "knn_20": 40.0,
            "knn_best": 3,
            "knn_200": "44",
            "accuracy_top1": True,
            "sets": {
                "clean": {"accuracy_top1": 70.0, "news": [1], "interval_top1": 3},
                "sketch": {"accuracy_top1": float("nan")},
                "stylized": [1, 2],
                "corruption": {"protocol": "corruption", "accuracy_top1": 9.0, "parts": [1]},
                "mine": {"accuracy_top1": 5.0, "generated": [True]},
                "cue_conflict": {"protocol": "cue_conflict", "shape_bias": None},
                "rendition": {"accuracy_top1": 33.0},
            },
            "missing": None,
        }
    )
    assert list(cells(table, "a ").items()) == [
        ("run", "a"),
        ("Clean", "70.00"),
        ("Corruption", "9.00"),
        ("Sketch", "-"),
        ("Stylized", "-"),
        ("Rendition", "33.00"),
        ("mine", "5.00"),
        ("kNN, k = 20", "40.00"),
    ]
    assert "| a   | Clean      | 70.00 | -             | -     | -" in table


def test_csv(store):
    runs = store(
        evaluation("a0", "pa,tch", clean=top1(70.0), corruption=corruption(40.0, generated=True)),
        evaluation("a1", "pa,tch", clean=top1(72.0)),
    )
    _, text = report.report(report.read_results(runs), "B")
    ours = text.splitlines()[:3]
    assert ours == [
        "row,origin,column,mean,std,runs,notes",
        '"pa,tch",ours,clean,71.0000,1.4142,2,',
        f'"pa,tch",ours,corruption,40.0000,,1,"{GENERATED}"',
    ]
    assert len(text.splitlines()) == 3 + 3 * 5 - 1  # a published cell is left out
    assert text.splitlines()[-1].startswith('"published, recipe B: patch negatives, K 16384, alp')


def test_command(store, tmp_path, capsys):
    runs = store(evaluation("a", clean=top1(70.0), corruption=corruption(40.0)))
    out, values, picture = (tmp_path / "out" / name for name in ("t.md", "t.csv", "t.png"))
    command = [*map(str, runs), "--out", str(out), "--csv", str(values), "--published", "none"]
    assert report.main([*command, "--corruptions", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert out.read_text() == printed and printed.startswith("| run | ImageNet-100 | Corruption |")
    assert values.read_text().count("\n") == 3 and picture.exists()
    # a file instead of a workdir, and the same again
    assert report.main([str(runs[0] / "results.json"), "--published", "none"]) == 0
    assert capsys.readouterr().out == printed
    with pytest.raises(SystemExit) as error:
        report.main([*command, "--published", "C"])
    assert error.value.code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "There is no"),
        ('{"encoder": "a"', "cannot be read"),
        ("\udcff", "cannot be read"),
        ("[1]", "names no encoder"),
        ('{"knn_20": 3}', "names no encoder"),
        ('{"encoder": "a", "job": "features"}', "has no figures"),
    ],
)
def test_broken_files_are_named(tmp_path, capsys, text, expected):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    assert report.main([str(tmp_path), "--out", str(tmp_path / "table.md")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert expected in " ".join(message.split()) and str(path) in message
    assert not (tmp_path / "table.md").exists()


def test_runs_without_a_device(store):
    """Neither JAX nor matplotlib is imported for tables without accuracies by corruption."""
    (run,) = store(evaluation("a", clean=top1(70.0)))
    code = (
        "import sys\n"
        "from nsneg_jax.report.command import main\n"
        f"assert main([{str(run)!r}]) == 0\n"
        "found = {'jax', 'flax', 'tensorflow', 'torch', 'grain', 'matplotlib'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "70.00" in done.stdout
