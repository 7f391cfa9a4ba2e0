"""Photographs that texture synthesis is tested with."""

import numpy as np
from skimage import data

from nsneg_jax.textures.synthesis import (
    TextureRecipe,
    cut_exemplars,
    mosaic,
    random_generator,
)

# three levels of small exemplars: compiled and run in little time
SMALL = TextureRecipe(output_size=56, passes=(2, 1, 1), jump_cost=1, use_cost=2, cell=4)


SIZE = 48


def photographs():
    gray = [np.stack([i] * 3, -1) for i in (data.brick(), data.grass(), data.gravel())]
    return [*gray, data.coffee(), data.chelsea(), data.astronaut()]


def prepared(names, recipe=SMALL, seed=0, size=SIZE):
    """Exemplars [N, 2, size, size, 3] of photographs and mosaics, by numbers of photographs."""
    exemplars, mosaics = [], []
    for name in names:
        rng = random_generator(seed, str(name))
        exemplars.append(cut_exemplars(rng, photographs()[name], 2, size))
        mosaics.append(mosaic(rng, exemplars[-1].shape[:3], recipe))
    return np.stack(exemplars), np.stack(mosaics)
