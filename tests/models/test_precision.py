"""How exact products are, in the programs that platforms get."""

import re

import jax
import jax.numpy as jnp
import pytest

from nsneg_jax import models
from nsneg_jax.models.encoder import PRECISIONS

MODEL = {
    "arch": "resnet8",
    "dim": 8,
    "mlp": True,
    "width": 8,
    "stem": "imagenet",
    "bn_running": "first",
}
# what a program asks of its products, in StableHLO's words
ASKED = {"float32": "HIGHEST", "tensorfloat32": "HIGH", "default": "DEFAULT"}


def program(dtype: str, platform: str, **settings) -> str:
    encoder, params, stats = models.structure(**(MODEL | {"dtype": dtype} | settings))

    def gradient(params, stats, images):
        def loss(params):
            return encoder(params, stats, images, 2)[0].astype(jnp.float32).sum()

        return jax.grad(loss)(params), encoder.features(params, stats, images)

    images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    traced = jax.jit(gradient).trace(params, stats, images)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def asked_of(text: str) -> set[str]:
    """The precisions of all convolutions and matrix products."""
    lines = [
        line
        for line in text.splitlines()
        if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    assert len(lines) > 20
    return {name for line in lines for name in re.findall(r"\b(?:HIGHEST|HIGH|DEFAULT)\b", line)}


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_product_is_as_exact_as_asked(precision, platform):
    assert asked_of(program("float32", platform, precision=precision)) == {ASKED[precision]}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_float32_is_true_unless_told_otherwise(platform):
    assert asked_of(program("float32", platform)) == {"HIGHEST"}
