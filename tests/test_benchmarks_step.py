"""benchmarks.step, and that its PyTorch peer computes what we compute."""

import importlib.util
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_draws import draw, draw_tree

from benchmarks import step
from nsneg_jax import moco
from nsneg_jax.errors import UsageError
from nsneg_jax.models.torch_names import to_state_dict
from nsneg_jax.pretrain import build

TINY = ["--arch", "resnet8", "--batch", "8", "--size", "32", "--queue", "32"]


def float64_config(arch: str, groups: int = 1):
    arguments = f"--arch {arch} --batch 6 --size 64 --queue 16 --negatives 2 --groups {groups}"
    config = step.benchmark_config(step.parse(arguments.split()))
    config.model.dtype = "float64"
    config.model.dim = 16
    return config


def start(config):
    """Our method and state with the golden files' weights, and the peer with the same."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_peer import TorchMoCo

    method, state = build(config, steps_per_epoch=1000)
    params, stats = (draw_tree("encoder_q.", tree) for tree in (state.params_q, state.stats_q))
    state = moco.init_state(method, params, stats, config.model.dim)
    peer = TorchMoCo(
        config, to_state_dict(params, stats), np.asarray(state.queue), torch.device("cpu")
    )
    return method, state, peer


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_peer_embeddings(arch, float64):
    method, state, peer = start(float64_config(arch))
    images = draw("images", (6, 64, 64, 3))
    forward = jax.jit(method.encoder, static_argnums=3)
    ours, _ = forward(state.params_q, state.stats_q, images, 1)
    theirs = peer.encoder_q(peer.images(images)).detach()
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    ours = jax.jit(method.encoder.features)(state.params_k, state.stats_k, images)
    theirs = peer.encoder_k.eval().features(peer.images(images))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_peer_steps(float64):
    # at 32 px the last stage's batch norm would see 3 values, and rounding errors would grow
    # a hundredfold a step
    config = float64_config("resnet18", groups=2)
    method, state, peer = start(config)
    update = jax.jit(partial(moco.update, method))
    for s in range(3):  # the third step writes over the queue's end
        views = moco.Views(
            draw(f"{s}.query", (6, 64, 64, 3)),
            draw(f"{s}.key", (6, 64, 64, 3)),
            draw(f"{s}.negatives", (6, 2, 64, 64, 3)),
        )
        permutations = np.stack([np.random.RandomState(s + p).permutation(6) for p in range(3)])
        theirs = peer.step(*map(peer.images, views), peer.queue.new_tensor(permutations).long())
        state, ours = update(
            state,
            views._replace(
                key=views.key[permutations[0]],
                negatives=views.negatives[permutations[1:].T, np.arange(2)],
            ),
            jnp.asarray(permutations),
        )
        np.testing.assert_allclose(ours.loss.mean(), theirs.loss, rtol=1e-9)
        for name in ("positive", "negative", "nonsemantic"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)
    np.testing.assert_allclose(state.queue, peer.queue, rtol=1e-9, atol=1e-12)
    for encoder, trees in (
        (peer.encoder_q, (state.params_q, state.stats_q)),
        (peer.encoder_k, (state.params_k, state.stats_k)),
    ):
        theirs = encoder.state_dict()
        for name, array in to_state_dict(*trees).items():
            np.testing.assert_allclose(array, theirs[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_json_line(capsys):
    torch = importlib.util.find_spec("torch")
    peer = ["--peer", "torch"] if torch else []
    assert step.main([*TINY, "--steps", "2", *peer]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["arch"] == "resnet8"
    assert figures["peak_memory_bytes"] > figures["program_bytes"] > 0
    for prefix in ("", "method_"):
        assert figures[prefix + "compile_seconds"] > 0
        seconds = figures[prefix + "seconds_per_step"]
        assert figures[prefix + "images_per_second"] == pytest.approx(8 / seconds, rel=1e-3)
    if torch:
        assert figures["peer_first_loss"] == pytest.approx(figures["first_loss"], rel=1e-4)
        ratio = figures["peer_seconds_per_step"] / figures["method_seconds_per_step"]
        assert figures["ratio"] == pytest.approx(ratio, rel=1e-3)
        low, high = figures["ratio_range"]
        assert low <= high
    else:
        assert "ratio" not in figures


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_peer_without_torch(capsys):
    assert step.main([*TINY, "--peer", "torch"]) == 2
    assert "pip install torch" in capsys.readouterr().err


def test_turns_alternate():
    order = []
    programs = [
        step.Program(name, partial(order.append, name), lambda result: None) for name in "ab"
    ]
    seconds = step.take_turns(programs, steps=3, per_turn=2)
    assert order == list("aabb" * 3)
    assert [len(seconds[name]) for name in "ab"] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "0"], "--batch is 0, but must be at least 1"),
        (["--steps", "-1"], "--steps is -1"),
        (["--size", "16"], "at least 32 pixels"),
        (["--groups", "3"], "a multiple of --groups, 3"),
        (["--queue", "8"], "at least --batch, 16"),
        (["--negatives", "-1"], "at least 0"),
    ],
)
def test_impossible_values(arguments, says):
    with pytest.raises(UsageError, match=says):
        step.parse(arguments)
