"""The recipes for one small machine: valid, in pairs, and run from an archive to the table."""

import json
from dataclasses import replace

import array_sets as made
import pytest

import main
from configs import evaluate, linear, moco, patch, texture
from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.arrays import cifar
from nsneg_jax.jobs import defaults
from nsneg_jax.jobs.frozen import completed
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.jobs.validation import check_reading, validate_evaluate, validate_linear
from nsneg_jax.methods.negatives import scaled_patch_range
from nsneg_jax.training.workdir import flatten


@pytest.mark.parametrize("variant", defaults.SMALL)
def test_pairs_differ_in_the_negatives_alone(variant):
    ours, theirs = (flatten(file.get_config(variant).to_dict()) for file in (patch, moco))
    different = {name for name in ours if ours[name] != theirs[name]}
    assert different == {"negatives.kind", "negatives.num", "negatives.alpha"}
    for file in (patch, moco):
        validate_pretraining(file.get_config(variant), 1)
        check_reading(file.get_config(variant))
    with pytest.raises(UsageError, match=variant):
        texture.get_config(variant)


@pytest.mark.parametrize(
    ("variant", "size", "stem", "patches"),
    [
        ("small", 96, "imagenet", (7, 31)),
        ("stl10", 96, "imagenet", (7, 31)),
        ("cifar10", 32, "small", (2, 10)),
        ("cifar100", 32, "small", (2, 10)),
        ("fashion_mnist", 28, "small_stride2", (2, 9)),
    ],
)
def test_sizes_fit_the_pictures(variant, size, stem, patches):
    config = patch.get_config(variant)
    assert (config.data.image_size, config.model.stem) == (size, stem)
    assert scaled_patch_range(config.negatives.patch_size, size) == patches
    if variant.startswith("cifar"):
        assert (config.moco.queue_size, config.moco.temperature) == (4096, 0.1)
    if variant != "small":
        assert config.data.resize == defaults.WHOLE


@pytest.mark.parametrize("variant", ["small", "fashion_mnist"])
def test_probes(variant):
    config = linear.get_config(variant).unlock()
    config.pretrained = "runs/patch"
    validate_linear(config, 1)


def test_an_evaluation_is_of_the_images_of_the_run():
    config = evaluate.get_config("small").unlock()
    config.pretrained = "runs/linear"
    validate_evaluate(config, 1)
    source = "cifar10:datasets"
    found = completed(config, {"source": source, "image_size": 32, "resize": 224})
    assert {each.source for each in found.sets.values()} == {source}
    assert found.sets.corruption.generate and found.sets.clean.resize == 224


@pytest.mark.slow
def test_from_the_archive_to_the_table(tmp_path, monkeypatch):
    """As docs/recipes.md has it, with fewer images and a smaller network."""
    small = replace(cifar.SETS["cifar10"], per_file={"train": 20, "test": 20})
    monkeypatch.setitem(cifar.SETS, "cifar10", small)
    made.cifar10(20)["cifar-10-python"].pack(tmp_path / "cifar-10-python.tar.gz")

    def run(name, config, *fields):
        argv = ["main.py", f"--config=configs/{config}", f"--workdir={tmp_path / name}"]
        common = ["--config.data.workers=0", "--config.data.threads=1"]
        assert main.main([*argv, *common, *fields]) == 0

    network = ["arch=resnet8", "width=8", "dim=8", "bn_groups=1"]
    run(
        "pre", "patch.py:cifar10", f"--config.data.source=cifar10:{tmp_path}",
        "--config.batch_size=16", "--config.epochs=1", "--config.moco.queue_size=40",
        "--config.knn_every_epochs=1", *(f"--config.model.{each}" for each in network),
    )  # fmt: skip
    lines = (tmp_path / "pre" / "metrics.jsonl").read_text().splitlines()
    assert any("knn_20" in json.loads(line) for line in lines)
    run(
        "lin", "linear.py:small", f"--config.pretrained={tmp_path / 'pre'}",
        "--config.epochs=1", "--config.batch_size=16",
    )  # fmt: skip
    run(
        "eval", "evaluate.py:small", f"--config.pretrained={tmp_path / 'lin'}",
        "--config.batch_size=16", "--config.sets.corruption.split=val[:50%]",
    )  # fmt: skip
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["sets"]["clean"]["images"] == 20 and not results["missing"]
    assert results["sets"]["corruption"]["generated"]
