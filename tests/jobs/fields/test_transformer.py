"""Settings of vision transformers that do not fit are refused before a run starts."""

import pytest
from tiny import tiny_config

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.fields import memory
from nsneg_jax.jobs.fields.memory import check_memory
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.parallel.mesh import data_mesh

FITS = {"model.arch": "vit_tiny", "model.token_size": 4}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.token_size", 5),
        ("model.token_size", 32),
        ("model.attention_heads", 5),
        ("model.positions", "cosine"),
        ("model.token_pooling", "max"),
        ("model.blocks", -1),
        ("model.position_grid", 0),
    ],
)
def test_the_field_is_named(field, value):
    validate_pretraining(tiny_config(**FITS), 1)
    with pytest.raises(UsageError, match=rf"^{field} is {value!r}, but must be "):
        validate_pretraining(tiny_config(**FITS | {field: value}), 1)


def test_fixed_positions_need_features_in_fours():
    odd = FITS | {"model.width": 2}
    with pytest.raises(UsageError, match=r"^model\.positions is 'sincos'"):
        validate_pretraining(tiny_config(**odd), 1)
    validate_pretraining(tiny_config(**odd | {"model.positions": "learnable"}), 1)


def test_a_resnet_ignores_them():
    validate_pretraining(tiny_config(**{"model.token_size": 5, "model.attention_heads": 7}), 1)


@pytest.mark.parametrize(("field", "too_large"), [("model.width", 1024), ("batch_size", 80_000)])
def test_memory_is_counted(field, too_large, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 2**30)
    check_memory(tiny_config(**FITS), data_mesh())
    with pytest.raises(UsageError, match=f"^{field} is {too_large}, but must be smaller"):
        check_memory(tiny_config(**FITS | {field: too_large}), data_mesh())
