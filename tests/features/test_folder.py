"""A folder of images, embedded by one command."""

from pathlib import Path

import numpy as np
import pytest
from photo_folder import write_photos
from tiny import checkpoint_of_untrained

from nsneg_jax import cli, load_pretrained
from nsneg_jax.features.table import read_table
from nsneg_jax.pytorch.exporting import export

pytestmark = pytest.mark.usefixtures("quick_code")
NAMES = ("b.jpg", "trip/a.JPEG", "trip/deep/c.png", "train/é.webp")
VIEWS = ("--image_size=16", "--resize=256")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("run"))


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Images, one that is damaged, and a file that is none."""
    folder = write_photos(tmp_path, NAMES, "photographs") / "photographs"
    (folder / "trip" / "bad.jpg").write_bytes(b"\xff\xd8\xff cut off")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_rows_can_be_joined_back_to_files(run, photographs, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    out = tmp_path / "out" / "features.parquet"
    arguments = [f"--pretrained={run}", str(photographs), f"--out={out}", *VIEWS]
    assert cli.main(["features", *arguments, "--batch_size=3"]) == 0
    printed = capsys.readouterr()
    assert "trip/bad.jpg" in printed.err and "1 skipped" in printed.out
    table = read_table(out)
    assert set(table.names) == set(NAMES) and len(table.names) == len(NAMES)
    files = [Path(table.about["folders"][""], name) for name in table.names]
    expected = load_pretrained(run, image_size=16, resize=256).embed(files)
    np.testing.assert_allclose(table.features, expected, atol=1e-5 * np.abs(expected).max())
    assert table.about["encoder"].endswith("step 7") and table.about["image_size"] == 16
    assert [path.name for path in tmp_path.glob("*")] in (
        [["out", "photographs"], ["photographs", "out"]]
    )


def test_exported_encoders_embed(run, photographs, tmp_path):
    export(run, tmp_path / "encoder", image_size=16, resize=256)
    tables = []
    for place, views in ((run, VIEWS), (tmp_path / "encoder", ())):
        out = tmp_path / "f.npz"
        arguments = [str(photographs), f"--pretrained={place}", "--out", str(out), *views]
        assert cli.main(["features", *arguments]) == 0
        tables.append(read_table(out))
    np.testing.assert_array_equal(tables[0].features, tables[1].features)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "FOLDER"),
        (["photographs", "--out=f.npz"], "--pretrained"),
        (["photographs", "--pretrained=RUN"], "--out"),
        (["photographs", "more", "--pretrained=RUN", "--out=f.npz"], "'more'"),
        (["photographs", "--pretrain=RUN", "--out=f.npz"], "--pretrain=RUN"),
        (["photographs", "--pretrained=RUN", "--out=f.csv"], "f.csv"),
        (["photographs", "--pretrained=RUN", "--out=f.npz", "--batch_size=0"], "--batch_size"),
        (["photographs", "--pretrained=RUN", "--out=f.npz", "--dtype=half"], "--dtype"),
        (["photographs", "--pretrained=RUN", "--out=f.npz"], "--image_size"),
        (["nothing", "--pretrained=RUN", "--out=f.npz"], "nothing is missing"),
        (["photographs/b.jpg", "--pretrained=RUN", "--out=f.npz"], "is a file"),
        (["photographs", "--pretrained=nothing", "--out=f.npz"], "no folder nothing"),
        (["broken", "--pretrained=RUN", "--out=f.npz", *VIEWS], "can be read"),
        (["empty", "--pretrained=RUN", "--out=f.npz", *VIEWS], "no images"),
    ],
)
def test_mistakes_are_named(run, photographs, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(photographs.parent)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken", "a.png").write_bytes(b"nothing")
    given = [
        word.replace("RUN", str(run)) if word.startswith("--p") else word for word in arguments
    ]
    assert cli.main(["features", *given]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert named.replace("RUN", str(run)) in error and "training" not in error
    assert not Path("f.npz").exists()
