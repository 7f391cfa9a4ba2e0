"""The page of runs: its structure, its figures, and that a browser shows it without an error."""

import json
import re
import sys
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
import stored_runs
from PIL import Image

from nsneg_jax.report import command
from nsneg_jax.report.charts import svg
from nsneg_jax.report.charts.panels import Line, Panel, Plot, corners, thinned, ticks
from nsneg_jax.report.page import gallery as galleries
from nsneg_jax.report.page.build import Measures
from nsneg_jax.report.page.conflicts import Example
from nsneg_jax.report.page.runs import differences, read

VOID = {"meta", "link", "img", "br"}
HOSTILE = "<script>alert(1)"
MOST_BYTES = 5e6


class Parsed(HTMLParser):
    """Sections and their texts, tables, charts and all tags; and what is wrong."""

    closes = False  # whether the tag ends itself

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.tags = [], [], []
        self.sections, self.tables, self.charts = {}, [], []
        self.feed(text)
        self.close()
        self.faults += self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        for name in ("src", "href", "action", "data"):
            if not found.get(name, "#").startswith(("data:", "#")):
                self.faults.append((tag, found[name]))
        if tag not in VOID and not self.closes:
            self.open.append(tag)
        if tag == "section":
            self.sections[found["id"]] = ""
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if "data-values" in found:
            self.charts.append((found["aria-label"], json.loads(found["data-values"])))

    def handle_startendtag(self, tag, attributes):
        self.closes = True
        self.handle_starttag(tag, attributes)
        self.closes = False

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data):
        if "section" in self.open:
            self.sections[list(self.sections)[-1]] += data
        if self.open and {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def chart(self, title):
        """Lines by name, as lists of x and y, and where a value is drawn."""
        found = next(values for label, values in self.charts if label.startswith(title))
        first = found["lines"][0]
        return {each["name"]: (each.get("x", first["x"]), each["y"]) for each in found["lines"]}


def measures(pictures):
    """Answers of an evaluation only: all else is in the files."""

    def conflicts(run, name, wanted):
        assert name == "cue_conflict" and run.is_dir()
        return {each: Example(pictures[0], "cat", "dog") for each in wanted}

    def unused(*arguments):
        raise AssertionError(arguments)

    return Measures(unused, unused, unused, conflicts)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        stored_runs.pretraining(folder / HOSTILE),
        stored_runs.pretraining(folder / "moco", **{"negatives.alpha": 3.0}),
        stored_runs.probe(folder / "probe"),
        stored_runs.evaluated(folder / "eval"),
    ]


@pytest.fixture(scope="module")
def files(runs, tmp_path_factory):
    """The page of all runs, and the folder of its pictures."""
    folder = tmp_path_factory.mktemp("report")
    pictures = galleries.load(runs[0] / "gallery" / "60.npz").pictures
    arguments = [*map(str, runs), "--html", str(folder / "report.html"), "--png", str(folder)]
    assert command.main(arguments, measures(pictures)) == 0
    return folder


@pytest.fixture(scope="module")
def page(files):
    text = (files / "report.html").read_text()
    assert len(text.encode()) < MOST_BYTES
    return Parsed(text)


def test_structure(page):
    assert page.faults == []
    assert list(page.sections) == [
        *("runs", "settings", "curves", "probe", "views", "similarities", "robustness"),
        *("corruptions", "classes", "conflicts", "neighbours", "map", "more"),
    ]
    links = {found["href"] for tag, found in page.tags if tag == "a"}
    assert {f"#{section}" for section in page.sections} < links
    pictures = [found for tag, found in page.tags if tag == "img"]
    # 3 x 8 views and 8 x 7 neighbours per pre-training, 2 cue conflicts
    assert len(pictures) == 2 * (24 + 8 * 7) + 2
    assert all(found["alt"] for found in pictures)
    charts = [found for tag, found in page.tags if found.get("class") == "chart"]
    assert charts and all(found["role"] == "img" and found["tabindex"] == "0" for found in charts)
    assert all(found["aria-label"].endswith(".") for found in charts)


def test_texts_of_files_are_text(page):
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert HOSTILE in page.sections["runs"]
    assert '<b>"pot"</b>' in page.sections["classes"] and "patch <i>" in page.sections["robustness"]


def test_what_the_runs_are(page):
    about = page.sections["runs"]
    for fact in (
        "2 x TPU v5e",
        "jax 0.10.2",
        "0123456789ab",
        "3 changed",
        "resumed at step 40",
    ):
        assert fact in about
    assert page.tables[0][0][:3] == ["run", "step", "loss"]
    assert page.tables[0][1][1:4] == ["60", "5.400", "6.00"]
    (settings,) = [table for table in page.tables if table[0][0] == "setting"]
    assert settings[1:] == [["negatives.alpha", "2", "3"]]


def test_curves_have_the_figures_of_the_files(page):
    steps = [20, 40, 60]
    expected = {HOSTILE: (steps, [5.8, 5.6, 5.4]), "moco": (steps, [5.8, 5.6, 5.4])}
    assert page.chart("Loss") == expected
    assert page.chart("kNN on validation images, k = 200")["moco"] == ([60], [39.25])
    assert page.chart("Linear probe on validation images, top-1")["moco"] == ([60], [61.5])
    assert page.chart("RankMe of the features")["moco"] == ([60], [31.5])
    probe = page.chart("Top-1 on validation images")
    assert probe == {
        "learning rate 0.1": ([1, 2], [10, 30]),
        "learning rate 1": ([1, 2], [20, 45.5]),
    }


def test_lines_are_drawn_where_their_values_are():
    line = Line("", (0.0, 10.0), (0.0, 100.0), 0)
    (drawn,) = re.findall(r'class="line c0" d="M([^"]*)"', svg.figures(_plot(line, from_zero=True)))
    (left, bottom), (right, top) = (map(float, point.split()) for point in drawn.split("L"))
    assert left < 60 and 340 < right <= 360 and 180 < bottom < 220 and 10 < top < 30


def _plot(*lines, **fields):
    return Plot("a", "a", (Panel("a", lines, "x", "y", **fields),))


def test_histograms_have_the_counts(page):
    lines = page.chart(f"{HOSTILE}, step 60")
    peaks = {name: x[y.index(4)] for name, (x, y) in lines.items()}  # all in a bin of 0.25
    assert peaks == {"key": 0.875, "queue": -0.125, "patch negative": 0.375}
    assert all(sum(y) == 4 for _, y in lines.values())


def test_results_and_corruptions(page):
    main = next(table for table in page.tables if table[0][2:3] == ["ImageNet-100"])
    assert main[1][:3] == ["patch <i>", "1", "70.00"]
    published = [row for row in main if row[0].startswith("published")]
    assert len(published) == 9 and "45.13±0.35" in published[2]
    assert page.chart("fog") == {"patch <i>": ([1, 2, 3, 4, 5], [52, 44, 36, 28, 20])}
    label = next(label for label, _ in page.charts if label.startswith("fog"))
    assert "patch <i>, clean at 70" in label and "chance at 1" in label


def test_classes_and_conflicts(page):
    table = next(table for table in page.tables if table[0][0] == "class")
    assert [row[0] for row in table[1:]] == ['<b>"pot"</b>', "owl", "rug & rag"]
    assert [row[1] for row in table[1:]] == ["80.0", "50.0", "20.0"]
    assert "answer: cat" in page.sections["conflicts"]
    assert "answer: dog" in page.sections["conflicts"]


def test_neighbours_and_map(page):
    same = [found for tag, found in page.tags if found.get("class") == "same"]
    assert len(same) == 2 * 8 * 6  # the features of a class are almost the same
    assert "100.0 %" in page.sections["neighbours"]
    points = page.chart(f"{HOSTILE}:")
    assert list(points) == list(stored_runs.CLASSES)
    assert [len(x) for x, _ in points.values()] == [10, 10, 10]


def test_pictures_are_drawn(files):
    names = {path.name for path in files.glob("*.png")}
    assert {"curves.png", "probe.png", "similarities.png", "corruptions.png", "map.png"} < names
    assert {"views-moco.png", "neighbours-moco.png", "eval--cue_conflict.png"} < names
    for name in names:
        pixels = np.asarray(Image.open(files / name).convert("RGB"), np.int32)
        assert len(np.unique(pixels @ (65536, 256, 1))) > 20, name  # colours


def test_a_pretraining_alone_without_measuring(runs, tmp_path, capsys):
    run = tmp_path / "run"
    stored_runs.pretraining(run)
    (run / "similarities" / "60.json").unlink()
    (run / "gallery" / "60.npz").unlink()
    (run / "metrics.jsonl").open("a").write('{"step": 80, "split": "tr')  # being written
    out = tmp_path / "page.html"
    assert command.main([str(run), "--html", str(out), "--no_measure"]) == 0
    alone = Parsed(out.read_text())
    assert alone.faults == [] and list(alone.sections) == ["runs", "curves", "views", "more"]
    assert "60.json" in alone.sections["more"] and "60.npz" in alone.sections["more"]
    assert "nsneg evaluate" in alone.sections["more"]
    assert list(alone.chart("Contrast task")) == ["top-1"]
    assert "5.400" in capsys.readouterr().out


def test_a_run_that_has_saved_nothing_yet(tmp_path, capsys):
    run = stored_runs.pretraining(tmp_path / "run")
    (run / "checkpoints" / "60").rmdir()
    assert command.main([str(run)]) == 0  # figures, and why there are no similarities
    shown = capsys.readouterr().out
    assert "5.400" in shown and "no checkpoint" in shown
    assert command.main([str(run), "--html", str(tmp_path / "page.html")]) == 0
    assert Parsed((tmp_path / "page.html").read_text()).faults == []


def test_features_need_a_page(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"job": "features"}')
    assert command.main([str(tmp_path)]) == 2
    assert "--html" in capsys.readouterr().err


def test_pngs_need_matplotlib(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = [str(runs[1]), "--html", str(tmp_path / "page.html")]
    assert command.main(arguments) == 0
    assert command.main([*arguments, "--png", str(tmp_path)]) == 2
    assert "nsneg_jax[report]" in capsys.readouterr().err


def test_settings_that_differ(tmp_path):
    paths = [
        stored_runs.pretraining(tmp_path / name / "patch", **changes)
        for name, changes in (("a", {}), ("b", {"moco.queue_size": 80, "data.threads": 9}))
    ]
    first, second = read(paths)
    assert (first.name, second.name) == ("a/patch", "b/patch")
    different, equal = differences([first, second])
    assert different == {"moco.queue_size": [72, 80]} and equal > 40


def test_neighbours_are_the_nearest_by_cosine():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(20, 5)).astype(np.float32)
    found = galleries.Gallery(
        features, np.zeros(20, np.int32), ("a",), np.arange(20, dtype=np.int32), (), ""
    )
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for query, near in zip((4, 7), galleries.neighbours(found, (4, 7), 3), strict=True):
        expected = sorted(set(range(20)) - {query}, key=lambda i: -unit[i] @ unit[query])[:3]
        assert near == expected
    assert galleries.agreement(found) is None


def test_pca_keeps_the_plane_of_the_features(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    found = galleries.plane(stored_runs.gallery(np.random.default_rng(0)))
    assert found.method.startswith("PCA") and "100 %" in found.method
    centres = np.stack([found.places[label::3].mean(axis=0) for label in range(3)])
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    np.testing.assert_allclose(distances[np.triu_indices(3, 1)], np.sqrt(2), atol=0.03)


def test_umap_keeps_classes_together():
    pytest.importorskip("umap", reason="umap-learn is not installed")
    found = galleries.plane(stored_runs.gallery(np.random.default_rng(0)))
    assert found.method.startswith("UMAP")
    distances = np.linalg.norm(found.places[:, None] - found.places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) % 3 == np.arange(30) % 3).all()


def test_ticks_and_thinning():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(ticks(-0.35, 0.81), [-0.25, 0, 0.25, 0.5, 0.75], atol=1e-12)
    x, y = thinned(range(1000), [2.0 * i for i in range(1000)])
    assert len(x) == len(y) == 200 and (x[0], y[0], x[-1], y[-1]) == (2, 4, 997, 1994)
    line = Line("a", (0.0, 0.5, 1.0), (3.0, 4.0), 0)
    assert list(corners(line)) == [(0, 0), (0, 3), (0.5, 3), (0.5, 4), (1, 4), (1, 0)]
    panel = Panel("a", (Line("", (1.0,), (5.0,), 0),))
    assert panel.x_range[0] < 1 < panel.x_range[1] and panel.y_range[0] < 5 < panel.y_range[1]
    assert Plot("a", "a", (panel,)).legend == {"": 0}


@pytest.mark.skipif(bool(browser.MISSING), reason=f"{browser.MISSING} is not installed")
def test_a_browser_shows_it_without_an_error(files):
    with browser.browsing() as chromium:
        chromium.get((files / "report.html").as_uri())
        assert chromium.errors() == []
        # every picture is decoded, and nothing is wider than a phone
        broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert chromium.run(broken) == 0
        wide = "return document.documentElement.scrollWidth"
        paper = "return getComputedStyle(document.body).backgroundColor"
        colours = {}
        for scheme in ("light", "dark"):
            chromium.emulate(390, scheme)
            assert chromium.run(wide) == 390
            colours[scheme] = sum(map(int, re.findall(r"\d+", chromium.run(paper))))
        assert colours["dark"] < 200 < 600 < colours["light"]
        shown = chromium.run(
            "const chart = document.querySelector('#curves svg.chart'); chart.focus();"
            "const key = new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true});"
            "chart.dispatchEvent(key); chart.dispatchEvent(key);"
            "return document.getElementById('tip').textContent"
        )
        assert shown == f"step 40\n{HOSTILE}: 5.6\nmoco: 5.6"
        assert chromium.errors() == []
