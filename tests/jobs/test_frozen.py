"""Configs as settings: what becomes of each section, and a set that is not one."""

import json
from dataclasses import asdict

import pytest

from configs import evaluate, linear
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.passes import Reading
from nsneg_jax.jobs.frozen import (
    evaluation_settings,
    feature_settings,
    knn_settings,
    probe_settings,
)


@pytest.mark.parametrize("variant", linear.VARIANTS)
def test_of_a_labelled_data_set(variant):
    config = linear.get_config(variant)
    probe, knn, features = (of(config) for of in (probe_settings, knn_settings, feature_settings))
    assert probe.reading == knn.reading == features.reading
    assert probe.data == knn.data == features.data
    data = config.data
    assert probe.reading == Reading(
        config.batch_size, data.image_size, data.resize, data.threads, data.workers
    )
    assert asdict(probe.data).items() <= data.to_dict().items()
    assert asdict(probe.optimizer) == config.optimizer.to_dict()
    assert (knn.k, knn.temperature) == (config.knn.k, config.knn.temperature)
    assert probe.learning_rates == config.learning_rates


@pytest.mark.parametrize("variant", evaluate.VARIANTS)
def test_of_an_evaluation(variant):
    config = evaluate.get_config(variant).unlock()
    config.only = "clean, sketch,"
    settings = evaluation_settings(config)
    assert settings.only == ("clean", "sketch")
    assert settings.sets.keys() == set(config.sets)
    for name, section in config.sets.items():
        # finished parts of earlier runs are known by this text
        assert json.dumps(asdict(settings.sets[name])) == section.to_json()


@pytest.mark.parametrize("change", [{"rezise": 0}, None])
def test_a_set_with_other_fields_is_refused(change):
    config = evaluate.get_config().unlock()
    if change:
        config.sets.sketch.update(change)
    else:
        del config.sets.sketch["resize"]
    with pytest.raises(UsageError, match="sketch"):
        evaluation_settings(config)
