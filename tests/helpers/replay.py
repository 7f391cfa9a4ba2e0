"""The golden trajectories, step by step through ours."""

import json
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_draws import draw, draw_tree
from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.methods import moco as method
from nsneg_jax.methods.accumulation import Parts
from nsneg_jax.methods.batches import ViewMaker, Views
from nsneg_jax.methods.contrast import InfoNCE
from nsneg_jax.methods.optimizer import learning_rate_schedule, sgd
from nsneg_jax.methods.views import V2
from nsneg_jax.parallel import mesh
from nsneg_jax.pytorch.names import to_state_dict


def trajectories(folder):
    files = sorted(folder.glob("*.json"))
    return [path for path in files if "permutations" in json.loads(path.read_text())]


@dataclass
class Replay:
    """One golden trajectory through our step, on the first `devices` devices."""

    golden: dict
    dtype: str
    devices: int
    merge_passes: bool
    texture: bool = False  # the last negative is a texture instead of a patch negative
    parts: int = 1
    worst: float = 0.0  # relative error of a loss so far

    def __post_init__(self):
        if len(jax.devices()) < self.devices:
            pytest.skip(f"needs {self.devices} devices")
        c = self.c = ConfigDict(self.golden["config"])
        encoder, params, stats = models.build(c.arch, dim=c.dim, mlp=c.mlp, dtype=self.dtype)
        self.schedule = learning_rate_schedule("cosine", c.lr, c.steps_per_epoch, c.epochs)
        self.mesh = mesh.data_mesh(jax.devices()[: self.devices])
        self.moco = method.MoCo(
            encoder=encoder,
            optimizer=sgd(self.schedule, momentum=0.9, weight_decay=c.wd),
            learning_rate=self.schedule,
            dim=c.dim,
            loss=InfoNCE(c.t, (c.alpha,) * c.num_nonsem),
            views=ViewMaker(
                recipe=V2,
                patches=c.num_nonsem - self.texture,
                texture=self.texture,
                patch_range=(16, 72),
                dtype=self.dtype,
                seed=0,
            ),
            queue_size=c.k,
            momentum=c.m,
            groups=self.golden["processes"],
            merge_passes=self.merge_passes,
            parts=Parts(self.parts),
        )
        params, stats = (draw_tree("encoder_q.", tree) for tree in (params, stats))
        queue = draw("queue", (c.dim, c.k))
        queue = (queue / np.linalg.norm(queue, axis=0)).T
        state = self.moco.init(params, stats).replace(queue=jnp.asarray(queue, self.dtype))
        self.state = mesh.put(state, mesh.replicated(self.mesh))

        def update(state, views, orders):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return method.update(self.moco, state, views, orders)

        self.update = jax.jit(
            update,
            out_shardings=mesh.replicated(self.mesh),
            donate_argnums=0,
        )

    def step(self, s: int) -> method.Outputs:
        c = self.c
        shape = (c.batch, 3, c.px, c.px)
        m = c.num_nonsem
        images = np.concatenate(
            [
                draw(f"step{s}.key", shape)[:, None],
                draw(f"step{s}.negatives", (shape[0], m, *shape[1:])),
            ],
            axis=1,
        )
        permutations = np.asarray(self.golden["permutations"][s * (1 + m) : (s + 1) * (1 + m)])
        images = images[permutations.T, np.arange(1 + m)].transpose(0, 1, 3, 4, 2)
        query = draw(f"step{s}.query", shape).transpose(0, 2, 3, 1)
        views = Views(query, images[:, 0], images[:, 1:])
        views = jax.tree.map(lambda x: x.astype(self.dtype), views)
        views = mesh.put(views, mesh.split_batch(self.mesh))
        self.state, outputs = self.update(self.state, views, permutations)
        return jax.device_get(outputs)

    def check_step(self, s: int, rtol: float):
        """Runs step s and compares everything recorded of it."""
        recorded = self.golden["steps"][s]
        np.testing.assert_allclose(self.schedule(s), recorded["lr"], rtol=rtol)
        outputs = self.step(s)
        c = self.c
        groups = self.golden["processes"]
        close = partial(np.testing.assert_allclose, rtol=rtol, atol=rtol)
        self.worst = max(self.worst, abs(float(outputs.loss.mean()) / recorded["loss"] - 1))
        close(outputs.loss.mean(), recorded["loss"])
        close(outputs.loss.reshape(groups, -1).mean(axis=1), recorded["loss_per_process"])
        s = outputs.similarities
        close(s.positive / c.t, recorded["positive_logits"])
        close(c.alpha * s.nonsemantic / c.t, recorded["nonsemantic_logits"])
        close(s.queue.mean(axis=1) / c.t, recorded["queue_logits_mean"])
        close(100 * np.mean(outputs.rank < 1), recorded["acc1"])
        pointer = method.queue_pointer(self.state.step, c.batch, c.k)
        assert pointer == recorded["queue_ptr"]

    def check_final(self, rtol: float):
        state_dict = {"queue": np.asarray(self.state.queue).T}
        for prefix, trees in (
            ("encoder_q.", (self.state.params_q, self.state.stats_q)),
            ("encoder_k.", (self.state.params_k, self.state.stats_k)),
        ):
            state_dict |= {prefix + k: v for k, v in to_state_dict(*trees).items()}
        final = self.golden["final"]
        assert sorted(state_dict) == sorted(final)
        for name, recorded in final.items():
            array = state_dict[name]
            scale = max(np.sqrt(np.mean(np.square(array))), 1e-30)
            close = partial(np.testing.assert_allclose, rtol=rtol, atol=rtol * scale, err_msg=name)
            assert list(array.shape) == recorded["shape"], name
            close(array.mean(), recorded["mean"])
            close(np.linalg.norm(array), recorded["l2"])
            close(array.ravel()[:4], recorded["first"])


def run(trajectory, devices, merge_passes, texture=False, parts=1):
    """The trajectory in float64; returns the largest relative error of a loss."""
    golden = json.loads(trajectory.read_text())
    replay = Replay(golden, "float64", devices, merge_passes, texture, parts=parts)
    for s in range(golden["config"]["steps"]):
        replay.check_step(s, rtol=1e-9)
    replay.check_final(rtol=1e-9)
    return replay.worst
