"""How the golden files make every array from its name (tests/golden/README.md)."""

import zlib
from math import prod

import numpy as np

from nsneg_jax.models.encoder import Tree
from nsneg_jax.pytorch.names import from_state_dict, to_state_dict


def draw(name, shape, scale=1.0, mean=0.0):
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape) * scale + mean


def draw_entry(prefix: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter or statistic of an encoder, in PyTorch's layout."""
    full = prefix + name
    if name.endswith("running_mean"):
        return draw(full, shape, 0.1)
    if name.endswith("running_var"):
        return np.abs(draw(full, shape, 0.1, 1.0)) + 0.1
    if len(shape) > 1:
        return draw(full, shape, np.sqrt(2 / prod(shape[1:])))
    if "bn" in name or "downsample.1" in name:
        return draw(full, shape, 0.1, 1.0 if name.endswith("weight") else 0.0)
    return draw(full, shape, 0.01)


def draw_tree(prefix: str, like: Tree) -> Tree:
    """Parameters or statistics with the structure of `like`."""
    state_dict = {
        name: draw_entry(prefix, name, array.shape) for name, array in to_state_dict(like).items()
    }
    return from_state_dict(state_dict, like)
