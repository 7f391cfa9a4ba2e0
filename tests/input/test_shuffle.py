"""The orders of shuffling BN on the host equal those on the devices; crops follow them."""

import numpy as np
import pytest
from tiny import tiny_config

from nsneg_jax.input.loading import Loaders, Steps
from nsneg_jax.input.pipeline import pretrain_batches
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.jobs.build import build
from nsneg_jax.training.step import shuffle_orders

N, STEPS = 8, 3


@pytest.mark.parametrize(("seed", "negatives"), [(0, 1), (2**31 - 1, 3)])
def test_host_draws_what_the_devices_draw(seed, negatives):
    method, _ = build(tiny_config(seed=seed, **{"negatives.num": negatives}), 5)
    for n in (1, 2, 96, 5000):  # 5000 are sorted twice
        orders = shuffle_orders(method.views, n)
        for step in (0, 7, 2**31 - 1):
            drawn = method.views.draw_orders(np.int32(step), n)
            np.testing.assert_array_equal(orders(step), drawn)


def test_host_draws_the_same_in_float64(float64):
    method, _ = build(tiny_config(), 5)
    drawn = method.views.draw_orders(np.int32(3), 16)
    np.testing.assert_array_equal(shuffle_orders(method.views, 16)(3), drawn)


@pytest.mark.parametrize("textures", [False, True])
def test_crops_come_in_the_orders_of_the_passes(textures):
    source = Shapes("train", image_size=24, size=20)
    texture_source = Shapes("train", image_size=40, size=20, seed=1) if textures else None
    method, _ = build(tiny_config(**{"negatives.num": 2}), 5)
    orders = shuffle_orders(method.views, N)

    def batches(process_index=0, process_count=1, **options):
        loaders = Loaders(2, 0, process_index, process_count)
        return list(
            pretrain_batches(
                source, Steps(N, 0, STEPS), loaders, textures=texture_source, image_size=16,
                crop_scale=(0.2, 1.0), seed=3, **options,
            )
        )  # fmt: skip

    plain = batches()
    halves = [batches(shuffle=orders, process_index=p, process_count=2) for p in range(2)]
    for step in range(STEPS):
        whole = {
            name: np.concatenate([half[step][name] for half in halves]) for name in halves[0][step]
        }
        order = orders(step)
        assert len({tuple(row) for row in order}) == 3
        last = "texture" if textures else "query"
        expected = {
            "query": plain[step]["query"],
            "index": plain[step]["index"],
            "replaced": np.zeros(N, bool),
            "key": plain[step]["key"][order[0]],
            "negatives": np.stack(
                [plain[step]["query"][order[1]], plain[step][last][order[2]]], axis=1
            ),
        }
        assert whole.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(whole[name], expected[name])
