"""benchmarks.step, and that its PyTorch peers compute what we compute."""

import importlib.util
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_draws import draw, draw_tree

from benchmarks import kernels, step
from benchmarks.peers import PEERS, largest_that_fits
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.build import build
from nsneg_jax.methods import moco
from nsneg_jax.methods.batches import Views
from nsneg_jax.pytorch.names import to_state_dict

TINY = ["--arch", "resnet8", "--batch", "8", "--size", "32", "--queue", "32"]


def float64_config(arch: str, groups: int = 1, queue: int = 16):
    arguments = f"--arch {arch} --batch 6 --size 64 --negatives 2 --groups {groups} --queue {queue}"
    config = step.benchmark_config(step.parse(arguments.split()))
    config.model.dtype = "float64"
    config.model.dim = 16
    return config


def start(config, kind="TorchMoCo"):
    """Our method and state with the golden files' weights, and the peer with the same."""
    torch = pytest.importorskip("torch")
    from benchmarks import torch_peer

    method, state = build(config, steps_per_epoch=1000)
    params, stats = (draw_tree("encoder_q.", tree) for tree in (state.params_q, state.stats_q))
    state = method.init(params, stats)
    peer = getattr(torch_peer, kind)(
        config, to_state_dict(params, stats), np.asarray(state.queue), torch.device("cpu")
    )
    return method, state, peer


@pytest.mark.slow
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


@pytest.mark.slow
def test_peer_steps(float64):
    # at 32 px the last stage's batch norm would see 3 values, and rounding errors would grow
    # a hundredfold a step
    config = float64_config("resnet18", groups=2)
    method, state, peer = start(config)
    update = jax.jit(partial(moco.update, method))
    for s in range(3):  # the third step writes over the queue's end
        views = Views(
            draw(f"{s}.query", (6, 64, 64, 3)),
            draw(f"{s}.key", (6, 64, 64, 3)),
            draw(f"{s}.negatives", (6, 2, 64, 64, 3)),
        )
        permutations = np.stack([np.random.RandomState(s + p).permutation(6) for p in range(3)])
        theirs = peer.step(*peer.views(views), peer.queue.new_tensor(permutations).long())
        state, ours = update(
            state,
            views._replace(
                key=views.key[permutations[0]],
                negatives=views.negatives[permutations[1:].T, np.arange(2)],
            ),
            jnp.asarray(permutations),
        )
        np.testing.assert_allclose(ours.loss.mean(), theirs.loss, rtol=1e-9)
        cosines = ours.similarities
        np.testing.assert_allclose(cosines.positive, theirs.positive, rtol=1e-9)
        np.testing.assert_allclose(cosines.queue.mean(axis=1), theirs.negative, rtol=1e-9)
        np.testing.assert_allclose(cosines.nonsemantic, theirs.nonsemantic, rtol=1e-9)
    np.testing.assert_allclose(state.queue, peer.queue_rows, rtol=1e-9, atol=1e-12)
    for encoder, trees in (
        (peer.encoder_q, (state.params_q, state.stats_q)),
        (peer.encoder_k, (state.params_k, state.stats_k)),
    ):
        theirs = encoder.state_dict()
        for name, array in to_state_dict(*trees).items():
            np.testing.assert_allclose(array, theirs[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.slow
def test_original_takes_the_same_steps(float64):
    config = float64_config("resnet8", groups=2, queue=12)
    peers = [start(config, kind)[2] for kind in ("TorchMoCo", "OriginalMoCo")]
    for s in range(3):
        shapes = {"query": (6, 64, 64, 3), "key": (6, 64, 64, 3), "negatives": (6, 2, 64, 64, 3)}
        views = Views(**{name: draw(f"{s}.{name}", shape) for name, shape in shapes.items()})
        permutations = [np.random.RandomState(s + p).permutation(6) for p in range(3)]
        orders = peers[0].queue.new_tensor(np.stack(permutations)).long()
        one, other = (peer.step(*peer.views(views), orders) for peer in peers)
        for name in one._fields:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9)
    np.testing.assert_allclose(peers[0].queue_rows, peers[1].queue_rows, rtol=1e-9)
    for encoder in ("encoder_q", "encoder_k"):
        one, other = (getattr(peer, encoder).state_dict() for peer in peers)
        for name, tensor in one.items():
            np.testing.assert_allclose(tensor, other[name], rtol=1e-9, atol=1e-12, err_msg=name)


def measured(arguments, capsys):
    assert step.main([*TINY, *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_json_line(capsys):
    figures = measured(["--steps", "2", "--profile"], capsys)
    assert figures["arch"] == "resnet8" and "peers" not in figures and "ratio" not in figures
    assert figures["peak_memory_bytes"] > figures["program_bytes"] > 0
    for prefix in ("", "method_"):
        assert figures[prefix + "compile_seconds"] > 0
        seconds = figures[prefix + "seconds_per_step"]
        assert figures[prefix + "images_per_second"] == pytest.approx(8 / seconds, rel=1e-3)
        for name in ("flops", "bytes"):
            amount = figures[f"{prefix}{name}_per_step"]
            assert figures[f"{prefix}{name}_per_second"] == pytest.approx(
                amount / seconds, rel=1e-3
            )
        assert figures[prefix + "share_of_peak_flops"] is None
    # the whole step makes the views besides, whose blur is a small product
    assert 1 < figures["flops_per_step"] / figures["method_flops_per_step"] < 1.01
    check_profile(figures["profile"])


def check_profile(found):
    shares = [kernel["share"] for kernel in found["kernels"]]
    assert len(shares) == kernels.SHOWN and shares == sorted(shares, reverse=True)
    assert 0.3 < sum(shares) <= 1.001 and shares[0] < 1
    for kernel in found["kernels"]:
        assert kernel["calls_per_step"] >= 1
        assert kernel["seconds_per_step"] == pytest.approx(
            kernel["share"] * found["kernel_seconds_per_step"], rel=1e-2
        )
    assert any("conv" in (kernel["operation"] or "") for kernel in found["kernels"])
    assert len(kernels.lines(found)) == 4 + kernels.SHOWN


def check_peers(figures, names):
    assert list(figures["peers"]) == names
    for peer in figures["peers"].values():
        assert peer["first_loss"] == pytest.approx(figures["first_loss"], rel=1e-4)
        assert peer["batch"] == 8 and peer["groups"] == figures["peer_groups"]
        assert peer["images_per_second"] == pytest.approx(8 / peer["seconds_per_step"], rel=1e-3)
        for name, prefix in (("ratio", "method_"), ("whole_ratio", "")):
            ratio = peer["seconds_per_step"] / figures[prefix + "seconds_per_step"]
            assert peer[name] == pytest.approx(ratio, rel=1e-3)
            low, high = peer[name + "_range"]
            assert low <= high
    first = figures["peers"][names[0]]
    assert figures["peer"] == names[0] and figures["ratio"] == first["ratio"]
    assert figures["peer_seconds_per_step"] == first["seconds_per_step"]


@pytest.mark.slow
def test_several_peers(capsys):
    pytest.importorskip("torch")
    names = ["torch", "torch-original"]
    flags = [flag for name in names for flag in ("--peer", name)]
    figures = measured([*flags, "--steps", "2", "--groups", "2"], capsys)
    check_peers(figures, names)
    one, other = (figures["peers"][name]["timed_first_loss"] for name in names)
    assert one == pytest.approx(other, rel=1e-4)
    # timed with one group, unlike ours
    assert one != pytest.approx(figures["first_loss"], rel=1e-3)


@pytest.mark.slow
def test_compiled_peer(capsys):
    """Takes a minute or two to compile."""
    pytest.importorskip("torch")
    flags = ["--peer", "torch-compiled", "--steps", "2", "--groups", "2", "--peer-groups", "2"]
    figures = measured(flags, capsys)
    check_peers(figures, ["torch-compiled"])
    compiled = figures["peers"]["torch-compiled"]
    assert compiled["timed_first_loss"] == pytest.approx(figures["first_loss"], rel=1e-4)
    # PyTorch may have the code of an earlier run
    assert compiled["compile_seconds"] >= 0


@pytest.mark.slow
def test_peer_that_fails(capsys, monkeypatch):
    """Without a C++ compiler the other peers are still measured."""
    pytest.importorskip("torch")
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    assert step.main([*TINY, "--steps", "2", "--peer", "torch-compiled", "--peer", "torch"]) == 1
    said = capsys.readouterr()
    figures = json.loads(said.out)
    assert figures["peers"]["torch-compiled"]["error"] and "torch-compiled" in said.err
    assert "ratio" not in figures and figures["peers"]["torch"]["ratio"] > 0


def test_batch_is_halved_until_it_fits():
    tried = []

    def attempt(batch):
        tried.append(batch)
        if batch > 4:
            raise MemoryError
        return "done"

    assert largest_that_fits(attempt, 16, 2, MemoryError) == (4, "done")
    assert tried == [16, 8, 4]
    with pytest.raises(MemoryError):  # 6 is not a multiple of 4 groups
        largest_that_fits(attempt, 12, 4, MemoryError)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
@pytest.mark.parametrize("peer", PEERS)
def test_peer_without_torch(peer, capsys):
    assert step.main([*TINY, "--peer", peer]) == 2
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
        (["--peer-groups", "3"], "--peer-groups is 3, but must be a divisor of --batch, 16"),
        (["--peer", "torch-original", "--queue", "40"], "a multiple of --batch, 16"),
    ],
)
def test_impossible_values(arguments, says):
    with pytest.raises(UsageError, match=says):
        step.parse(arguments)
