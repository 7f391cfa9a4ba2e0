"""The programs of all jobs, from shapes only: each exists, and is the job's own."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

from configs import evaluate, finetune, linear, texture
from nsneg_jax import corruptions, models
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation import features
from nsneg_jax.evaluation import neighbours as knn
from nsneg_jax.parallel import mesh
from nsneg_jax.planning import programs
from nsneg_jax.planning.targets import read_target

MODEL = tiny_config().model


def job_config(file, **changes):
    config = file.get_config("tiny").copy_and_resolve_references()
    config.update_from_flattened_dict({"data.image_size": 16, "batch_size": 16} | changes)
    return config


def lowered(program, config, devices=8):
    split = mesh.data_mesh(jax.devices()[:devices])
    return dict(programs.lower(program, config, split, MODEL.to_dict(), 10))


def shapes(program: jax.stages.Lowered) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(program.args_info[0])]


def test_step():
    (step,) = lowered("step", tiny_config(**{"model.bn_groups": 8})).values()
    assert shapes(step).count((16, 16, 16, 3)) == 2


def test_probe():
    found = lowered("probe", job_config(linear))
    assert list(found) == ["probe: train step", "probe: end of an epoch", "probe: evaluation step"]
    rates, features_, classes = 4, 16, 10
    for name in found:
        assert (rates, features_, classes) in shapes(found[name]), name
    assert (16, 16, 16, 3) in shapes(found["probe: train step"])


def test_finetuning():
    found = lowered("finetune", job_config(finetune))
    names = ["train step", "end of an epoch", "evaluation step"]
    assert list(found) == [f"finetune: {name}" for name in names]
    assert (1, 16, 10) in shapes(found["finetune: train step"])
    assert (16, 16, 16, 3) in shapes(found["finetune: train step"])
    # unlike a probe's, the step computes the encoder's gradient
    flops = [
        lowered(name, job_config(file))[f"{name}: train step"].cost_analysis()["flops"]
        for name, file in (("probe", linear), ("finetune", finetune))
    ]
    assert flops[1] > 2 * flops[0]


def test_search_is_of_the_sizes_that_the_job_takes():
    (search,) = lowered("knn", job_config(linear, batch_size=15), devices=3).values()
    queries = knn.query_block(mesh.data_mesh(jax.devices()[:3]))
    assert queries % 3 == 0 and queries >= 1024
    expected = [
        (queries, 16),
        (knn.BANK_BLOCK, 16),
        (knn.BANK_BLOCK,),
        (queries, 200),
        (queries, 200),
    ]
    assert shapes(search) == expected


def test_features_program_gives_the_features():
    config = job_config(linear)
    (program,) = lowered("features", config, devices=1).values()
    model = MODEL.copy_and_resolve_references()
    model.dim = 0
    encoder, params, stats = models.build(**model, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
    one = mesh.data_mesh(jax.devices()[:1])
    expected = features.compile_features(encoder, config.dtype, one)(params, stats, images)
    np.testing.assert_array_equal(program.compile()(params, stats, images), expected)


def test_evaluation_has_every_corruption_and_the_classifier():
    found = lowered("evaluate", job_config(evaluate))
    names = {name.split()[1] for name in found}
    assert names == {
        *(corruptions.CORRUPTIONS + corruptions.EXTRA + corruptions.SUPPRESSIONS),
        "classifier",
    }
    for name, program in found.items():
        assert (16, 16, 16, 3) in shapes(program), name


def test_a_program_for_each_that_corrupting_compiles():
    """Severities of zoom blur differ in the number of factors, and share where they do not."""
    pictures, keys = np.zeros((1, 24, 24, 3), np.uint8), corruptions.image_keys(0, np.arange(1))
    before = corruptions._corrupt._cache_size()
    for severity in corruptions.SEVERITIES:
        corruptions.corrupt(pictures, "zoom_blur", severity, keys)
    compiled = corruptions._corrupt._cache_size() - before
    listed = [name for name, _ in corruptions.programs(24) if name == "zoom_blur"]
    assert compiled == len(listed) > 1


@pytest.mark.parametrize(("size", "count"), [(224, 8 * 4), (32, 128)])
def test_synthesis_is_of_the_sizes_that_the_makers_take(size, count):
    config = job_config(texture, **{"data.image_size": size})
    (program,) = lowered("texture", config).values()
    exemplars, mosaics = shapes(program)
    assert exemplars[0] == mosaics[0] == count and exemplars[1] == 2
    if size == 224:
        assert exemplars[2:] == (96, 96, 3)


def test_config_of_another_job_is_refused():
    with pytest.raises(UsageError, match="'linear'"):
        next(programs.costs("step", linear.get_config(), read_target("h100:1"), {}, 10))
    with pytest.raises(UsageError, match="batch_size"):
        lowered("probe", job_config(linear, batch_size=15))
