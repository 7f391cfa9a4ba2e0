"""The folder of data sets, and the hint about those that an earlier version put in data/."""

import pytest

from configs import evaluate, linear, patch
from data import arrayrecord, imagenet100, texture
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation import sets
from nsneg_jax.files import data_root, earlier_data, json_lines
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.packed import ArrayRecord
from nsneg_jax.jobs.frozen import completed
from nsneg_jax.jobs.opening import to_json
from nsneg_jax.training.workdir import check_workdir, claim_workdir


@pytest.fixture
def at(tmp_path, monkeypatch):
    """An empty working folder, NSNEG_DATA not set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NSNEG_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "datasets"),
        ("data", "data"),
        ("/scratch/sets/", "/scratch/sets"),
        ("~/sets", "/home/ada/sets"),
        ("gs://bucket/sets", "gs://bucket/sets"),
        ("/", "/"),
    ],
)
def test_data_root(at, monkeypatch, given, expected):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("NSNEG_DATA", given)
    assert data_root() == expected


def test_data_root_of_nobody(at, monkeypatch):
    monkeypatch.setenv("NSNEG_DATA", "~no-such-user/sets")
    with pytest.raises(UsageError, match="NSNEG_DATA is '~no-such-user/sets'"):
        data_root()


@pytest.mark.parametrize("given", ["", "elsewhere"])
def test_configs_and_scripts_agree_on_where_data_lie(at, monkeypatch, given):
    monkeypatch.setenv("NSNEG_DATA", given)
    root = given or "datasets"
    config = patch.get_config()
    probe, evaluation = completed(linear.get_config(), {}), completed(evaluate.get_config(), {})
    assert config.data.source == probe.data.source == f"folder:{root}/imagenet100"
    assert config.negatives.texture_source == f"folder:{root}/imagenet100-texture"
    clean = evaluation.sets.clean.source
    assert clean == config.data.source
    folders = [each.source.partition(":")[2] for each in evaluation.sets.values()]
    assert all(folder.startswith(f"{root}/") for folder in folders)
    textures, packed = texture.parse([]), arrayrecord.parse([])
    assert f"folder:{textures.source}" == f"folder:{packed.source}" == config.data.source
    assert f"folder:{textures.out}" == config.negatives.texture_source
    assert packed.out == f"{root}/imagenet100-packed"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/photos/birds/", "birds"),
        ("folder:../birds", "birds"),
        ("arrayrecord:gs://bucket/birds", "birds"),
        ("tfds:imagenet_v2/matched-frequency:3.0.0", "imagenet_v2"),
    ],
)
def test_what_is_made_of_a_data_set_has_its_name(at, source, name):
    assert texture.parse(["--source", source]).out == f"datasets/{name}-texture"
    assert arrayrecord.parse(["--source", source]).out == f"datasets/{name}-packed"


def test_scripts_that_need_a_local_folder_say_so(at, monkeypatch, capsys):
    monkeypatch.setenv("NSNEG_DATA", "gs://bucket")
    for script, arguments in ((imagenet100, ["--source", "x"]), (texture, ["--source", "x"])):
        assert script.main(arguments) == 2
        assert "--out is gs://bucket/" in capsys.readouterr().err
    assert not list(at.iterdir())


def test_imagenet100_is_made_where_the_configs_read_it(at):
    (at / "classes.txt").write_text("n01558993\n")
    image = at / "imagenet" / "train" / "n01558993" / "n01558993_1.JPEG"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x")
    options = ["--source", "imagenet", "--classes", "classes.txt", "--splits", "train"]
    assert imagenet100.main(options) == 1  # the class has too few images
    made = completed(linear.get_config(), {}).data.source.partition(":")[2]
    assert (at / made / "train" / image.parent.name / image.name).read_bytes() == b"x"


def test_data_of_an_earlier_version_is_pointed_out(at):
    missing = "datasets/imagenet100"
    assert earlier_data(missing) == ""
    (at / "data" / "imagenet100" / "train" / "n01").mkdir(parents=True)
    for source in (Folder, ArrayRecord):
        with pytest.raises(UsageError, match=r"Found data/imagenet100 .* NSNEG_DATA=data"):
            source(missing, "train")
    clean = sets.EvaluationSet(**completed(evaluate.get_config(), {}).sets.clean)
    with pytest.raises(UsageError, match=r"Found data/imagenet100 .* NSNEG_DATA=data"):
        sets.plan({"clean": clean}, ["n01"], image_size=224)
    # another name, a folder outside of the root, the root itself, a store, and once it is moved
    for other in ("datasets/other", "/nowhere/imagenet100", "datasets", "gs://b/imagenet100"):
        assert earlier_data(other) == ""
    (at / missing).mkdir(parents=True)
    assert earlier_data(missing) == ""


def test_the_old_place_is_read_by_its_name(at, monkeypatch):
    """A run started on data/imagenet100 resumes with the same path, given in either way."""
    config = patch.get_config()
    before = {"data.source": "folder:data/imagenet100"}
    before["negatives.texture_source"] = "folder:data/imagenet100-texture"
    config.update_from_flattened_dict(before)
    claim_workdir(to_json(config), at / "run", resuming=False)
    now = patch.get_config()
    with pytest.raises(UsageError, match=r"data\.source was 'folder:data/imagenet100'"):
        check_workdir(to_json(now), at / "run")
    # textures that are not used do not matter
    now.data.source = "folder:data/imagenet100"
    assert now.negatives.texture_source != config.negatives.texture_source
    check_workdir(to_json(now), at / "run")
    monkeypatch.setenv("NSNEG_DATA", "data")
    check_workdir(to_json(patch.get_config()), at / "run")


def test_other_textures_are_refused_where_they_are_used(at):
    config = patch.get_config()
    config.negatives.kind = "patch+texture"
    claim_workdir(to_json(config), at / "run", resuming=False)
    config.negatives.texture_source = "folder:others"
    with pytest.raises(UsageError, match=r"negatives\.texture_source"):
        check_workdir(to_json(config), at / "run")


def test_json_lines_leave_out_what_is_no_object(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n[2]\n\xff\n{}\n\n{"step": 3}\n{"st')
    assert json_lines(path) == [{"step": 1}, {"step": 3}]
    assert json_lines(tmp_path / "none") == []
