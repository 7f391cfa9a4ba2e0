"""Draws the orders of shuffling BN on the host, bit for bit as the step draws them on the devices.

Pipelines load crops in these orders in threads and worker processes that must not start JAX's
devices. So this is `methods.shuffling.draw_orders` in NumPy: threefry (Salmon et al. 2011), used
as in `jax.random`.
"""

from dataclasses import dataclass

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)

Key = tuple[np.uint32, np.uint32]


@dataclass(frozen=True)
class ShuffleOrders:
    """Draws the order of the images in each pass of the key encoder.

    Attributes:
        root: the two words of `jax.random.key(seed)`.
        purpose: the number that the step folds in for these draws, `methods.batches.SHUFFLE`.
        passes: 1 + M, one for the keys and one per negative.
        batch_size: N, size of the global batch.
    """

    root: tuple[int, int]
    purpose: int
    passes: int
    batch_size: int

    def __call__(self, step: int) -> np.ndarray:
        """Returns int32 [passes, batch_size]; place i of pass p holds sample [p, i]."""
        root = np.uint32(self.root[0]), np.uint32(self.root[1])
        key = _fold_in(_fold_in(root, step), self.purpose)
        return np.stack(
            [_permutation(_fold_in(key, p), self.batch_size) for p in range(self.passes)]
        )


def _permutation(key: Key, n: int) -> np.ndarray:
    """Does `jax.random.permutation(key, n)`: sorts by random numbers, repeatedly for collisions."""
    x = np.arange(n, dtype=np.int32)
    rounds = int(np.ceil(3 * np.log(max(1, n)) / np.log(np.iinfo(np.uint32).max)))
    for _ in range(rounds):
        key, other = _split(key)
        high, low = _threefry(other, np.zeros(n, np.uint32), np.arange(n, dtype=np.uint32))
        x = x[np.argsort(high ^ low, kind="stable")]
    return x


def _fold_in(key: Key, number: int) -> Key:
    high, low = _threefry(key, np.zeros(1, np.uint32), np.array([number], np.uint32))
    return high[0], low[0]


def _split(key: Key) -> tuple[Key, Key]:
    high, low = _threefry(key, np.zeros(2, np.uint32), np.arange(2, dtype=np.uint32))
    return (high[0], low[0]), (high[1], low[1])


def _threefry(key: Key, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes counters (x0, x1), uint32, by Threefry-2x32 with 20 rounds."""
    with np.errstate(over="ignore"):  # sums are modulo 2^32
        schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
        x0, x1 = x0 + schedule[0], x1 + schedule[1]
        for block in range(5):
            for rotation in _ROTATIONS[block % 2]:
                x0 = x0 + x1
                x1 = x0 ^ ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation)))
            x0 = x0 + schedule[(block + 1) % 3]
            x1 = x1 + schedule[(block + 2) % 3] + np.uint32(block + 1)
    return x0, x1
