"""MoCHi and IFM in MoCo's step, against a plain PyTorch form with the same draws."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from tiny import PLAIN, metrics_lines, tiny_config

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs import build
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.methods import moco
from nsneg_jax.methods.batches import MIXING, Views
from nsneg_jax.methods.contrast import IFM, InfoNCE
from nsneg_jax.methods.negatives import NEGATIVES
from nsneg_jax.methods.negatives.mochi import MoCHi
from nsneg_jax.models.encoder import Encoder
from nsneg_jax.parallel import mesh

pytestmark = pytest.mark.usefixtures("quick_code")

N, STEPS = 16, 4
MIXED = {"mochi.hardest": 24, "mochi.pairs": 12, "mochi.with_query": 6, "mochi.warmup_epochs": 0}


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


class Reference:
    """The head of MoCo in PyTorch, on given features: loss, gradient by the queries' features.

    The encoder of both is one linear layer, so that nothing but the loss is under test.
    """

    def __init__(self, weights, queue, *, alphas, epsilon, mochi, rate, momentum):
        self.query = torch.tensor(weights, requires_grad=True)
        self.key, self.queue = torch.tensor(weights), torch.tensor(queue)
        self.alphas, self.epsilon, self.mochi = torch.tensor(alphas), epsilon, mochi
        self.rate, self.momentum, self.pointer = rate, momentum, 0

    def cross_entropy(self, positive, queue, own):
        logits = torch.cat([positive[:, None], queue, self.alphas * own], dim=1) / 0.2
        label = torch.zeros(len(logits), dtype=torch.long)
        return torch.nn.functional.cross_entropy(logits, label)

    def mixed(self, q, draws):
        """One query and one negative after another."""
        hardest = torch.topk(q @ self.queue.T, self.mochi.hardest, dim=1).indices
        found = []
        for i in range(len(q)):
            keys = self.queue[hardest[i]]
            own = []
            for a, b, alpha in zip(draws.first[i], draws.second[i], draws.alpha[i], strict=True):
                own.append(float(alpha) * keys[int(a)] + (1 - float(alpha)) * keys[int(b)])
            for a, beta in zip(draws.single[i], draws.beta[i], strict=True):
                own.append(float(beta) * q[i] + (1 - float(beta)) * keys[int(a)])
            found.append(unit(torch.stack(own)))
        return torch.stack(found).detach()

    def step(self, query, key, own, draws):
        with torch.no_grad():
            self.key = self.momentum * self.key + (1 - self.momentum) * self.query
            k, t = unit(torch.tensor(key) @ self.key), unit(torch.tensor(own) @ self.key)
        q = unit(torch.tensor(query) @ self.query)
        positive, own = (q * k).sum(1), torch.einsum("nd,nmd->nm", q, t)
        queue = q @ self.queue.T
        if draws is not None:
            mixed = self.mixed(q.detach(), draws)
            queue = torch.cat([queue, torch.einsum("nd,nsd->ns", q, mixed)], dim=1)
        loss = self.cross_entropy(positive, queue, own)
        if self.epsilon:
            e = self.epsilon
            loss = (loss + self.cross_entropy(positive - e, queue + e, own + e)) / 2
        (gradient,) = torch.autograd.grad(loss, self.query)
        with torch.no_grad():
            self.query -= self.rate * gradient
        rows = (self.pointer + torch.arange(len(k))) % len(self.queue)
        self.queue[rows] = k
        self.pointer = (self.pointer + len(k)) % len(self.queue)
        return float(loss.detach())


@dataclass(frozen=True)
class Linear(Encoder):
    """An encoder of one matrix; hashable."""

    graphdef: None = None

    def __call__(self, params, stats, images, groups, passes=1):
        return images.reshape(len(images), -1) @ params["w"], stats


def method_of(epsilon, mochi, negatives=2):
    """MoCo with a linear encoder and SGD without momentum."""
    config = tiny_config(**PLAIN, **{"negatives.num": negatives})
    alphas = (2.0, 0.5)[:negatives]
    return replace(
        build.build_method(config, Linear(), 5),
        optimizer=optax.sgd(0.3),
        loss=IFM(0.2, alphas, epsilon) if epsilon else InfoNCE(0.2, alphas),
        mochi=mochi,
        momentum=0.9,
    )


def run(method, devices):
    """Our steps and the reference's: losses of both, the last states of both, our outputs."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(12, method.dim)) / 4
    state = method.init({"w": jnp.asarray(weights)}, {})
    epsilon = getattr(method.loss, "epsilon", 0)
    theirs = Reference(
        weights, np.array(state.queue), alphas=method.loss.alphas, epsilon=epsilon,
        mochi=method.mochi, rate=0.3, momentum=0.9,
    )  # fmt: skip
    place = mesh.data_mesh(jax.devices()[:devices])

    def update(state, views):
        with jax.sharding.use_abstract_mesh(place.abstract_mesh):
            return moco.update(method, state, views)

    compiled = jax.jit(update, out_shardings=mesh.replicated(place))
    state = mesh.put(state, mesh.replicated(place))
    losses = []
    for step in range(STEPS):
        m = len(method.loss.alphas)
        query, key, own = (rng.normal(size=(N, *more, 2, 2, 3)) for more in ((), (), (m,)))
        views = Views(*map(jnp.asarray, (query, key, own)))
        state, outputs = compiled(state, mesh.put(views, mesh.split_batch(place)))
        draws = None
        if method.mochi is not None and step >= method.mochi.warmup_steps:
            drawn = method.mochi.draw(method.views.keys(jnp.int32(step), MIXING, N))
            draws = jax.tree.map(np.asarray, drawn)
        flat = query.reshape(N, -1), key.reshape(N, -1), own.reshape(N, m, -1)
        losses.append((float(outputs.loss.mean()), theirs.step(*flat, draws)))
    return np.array(losses), jax.device_get(state), theirs, jax.device_get(outputs)


@pytest.mark.parametrize(
    ("epsilon", "mochi", "devices"),
    [
        pytest.param(0.1, None, 1, id="ifm", marks=pytest.mark.slow),
        pytest.param(0.1, None, 8, id="ifm-8", marks=pytest.mark.slow),
        pytest.param(0.0, MoCHi(24, 12, 6, 0), 1, id="mochi", marks=pytest.mark.slow),
        pytest.param(0.0, MoCHi(24, 12, 6, 0), 8, id="mochi-8", marks=pytest.mark.slow),
        pytest.param(0.2, MoCHi(24, 5, 3, 2), 1, id="both", marks=pytest.mark.slow),
        pytest.param(0.2, MoCHi(24, 5, 3, 2), 8, id="both-8"),
    ],
)
def test_the_steps_are_the_plain_forms(epsilon, mochi, devices, float64):
    losses, state, theirs, outputs = run(method_of(epsilon, mochi), devices)
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-9)
    for ours, other in (
        (state.params_q["w"], theirs.query.detach()),
        (state.params_k["w"], theirs.key),
        (state.queue, theirs.queue),
    ):
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-9)
    # figures are those of the plain loss and the queue alone
    s = outputs.similarities
    assert s.queue.shape == (N, 72)
    own = np.array([2.0, 0.5]) * s.nonsemantic
    ranks = (s.queue > s.positive[:, None]).sum(1) + (own > s.positive[:, None]).sum(1)
    np.testing.assert_array_equal(outputs.rank, ranks)


def test_draws_of_a_query_are_its_own_and_pairs_are_two_keys():
    mochi, keys = MoCHi(3, 4000, 2000, 0), jax.random.split(jax.random.key(0), 4)
    draw = jax.jit(mochi.draw)
    draws = jax.tree.map(np.asarray, draw(keys))
    with jax.enable_x64(True):
        alone = draw(keys[2:3])
    for one, every in zip(alone, draws, strict=True):
        np.testing.assert_array_equal(one, every[2:3])
        assert one.dtype == every.dtype
    pairs = np.bincount(3 * draws.first.ravel() + draws.second.ravel(), minlength=9).reshape(3, 3)
    assert (np.diag(pairs) == 0).all()
    assert (abs(pairs[~np.eye(3, dtype=bool)] - 16000 / 6) < 250).all()  # deviation 47
    assert (np.bincount(draws.single.ravel()) > 2400).all()
    assert 0 <= draws.alpha.min() < 0.01 and 0.99 < draws.alpha.max() < 1
    assert 0 <= draws.beta.min() < 0.01 and 0.49 < draws.beta.max() < 0.5


@pytest.mark.slow
def test_a_run_resumes_to_the_bit(tmp_path):
    """IFM, MoCHi after its warm-up and every negative, stopped in the warm-up and after it."""
    others = ",".join(f"{name}@1" for name in NEGATIVES if name not in ("patch", "texture"))
    values = MIXED | {"mochi.warmup_epochs": 1, "loss.name": "ifm", "loss.epsilon": 0.1}
    values |= {"negatives.more": others, "log_every_steps": 1, "checkpoint.every_steps": 100}
    states = {}
    for name, stops in (("whole", (9,)), ("parts", (3, 7, 9))):
        for stop in stops:
            config = tiny_config(total_steps=stop, **values)
            states[name] = pretrain(config, tmp_path / name, jax.devices()[:2])
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, states.values()))
    assert metrics_lines(tmp_path / "whole") == metrics_lines(tmp_path / "parts")


def test_what_mochi_cannot_do_is_refused():
    validate_pretraining(tiny_config(**MIXED), 1)
    for name, value in (("mochi.hardest", 73), ("mochi.warmup_epochs", 4)):
        with pytest.raises(UsageError, match=name.replace(".", r"\.")):
            validate_pretraining(tiny_config(**MIXED | {name: value}), 1)
    for name, epsilon in (("ifm", 0.0), ("infonce", 0.1)):
        config = tiny_config(**{"loss.name": name, "loss.epsilon": epsilon})
        with pytest.raises(UsageError, match=r"loss\.epsilon"):
            validate_pretraining(config, 1)
    method, _ = build.build(tiny_config(**MIXED | {"mochi.warmup_epochs": 2}), 5)
    assert method.mochi == MoCHi(24, 12, 6, warmup_steps=10)
    assert build.build(tiny_config(), 5)[0].mochi is None
