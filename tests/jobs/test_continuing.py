"""Pre-trainings that begin with the weights of other runs, and go on to the bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from official_states import fill, official_content
from tiny import PLAIN, checkpoint_of_untrained, damage, metrics_lines, tiny_config

import main
from benchmarks.torch_peer import ResNet
from configs import byol, mocov3, patch, simclr
from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.jobs.build import build
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.models.encoder import HEAD
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.pytorch.exporting import export
from nsneg_jax.pytorch.importing import import_file
from nsneg_jax.pytorch.names import to_state_dict
from nsneg_jax.report.page.about import facts
from nsneg_jax.report.page.runs import read
from nsneg_jax.training.checkpoints.checkpoint import read_checkpoint, read_progress

ONE = jax.devices()[:1]
ROOT = Path(main.__file__).parent
RECIPES = {"moco": patch, "symmetric": patch, "byol": byol, "simclr": simclr, "mocov3": mocov3}
VIT = {
    "model.arch": "vit_tiny",
    "model.token_size": 8,
    "model.blocks": 1,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-3,
}
IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


class BegunError(Exception):
    """A run was about to compile its first step."""


def config_of(start, method="moco", **values):
    own = {"pretrained": str(start), "seed": 5}
    if method == "symmetric":
        own["moco.symmetric"] = True
    elif method != "moco":
        own |= {"model.bn_groups": 1, "model.head_hidden": 24}
    return tiny_config(RECIPES[method], **own | values)


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """Runs a job until its first step, and returns the state before that."""

    def begin(config):
        states = []

        def stop(method, devices, placement, state):
            states.append(jax.device_get(state))
            raise BegunError

        with monkeypatch.context() as patched:
            patched.setattr("nsneg_jax.jobs.pretrain.compile_step", stop)
            with pytest.raises(BegunError):
                pretrain(config, tmp_path / "begun", ONE)
        return states[0]

    return begin


def start_of(workdir, **values):
    """A checkpoint whose statistics are no initial ones."""
    return checkpoint_of_untrained(workdir, seed=3, **values)


def without_head(tree):
    return {name: leaf for name, leaf in tree.items() if name != HEAD}


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))


def features(encoder, params, stats):
    return encoder.encoder.features(without_head(params), without_head(stats), IMAGES)


@pytest.mark.parametrize("network", [{}, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("method", RECIPES)
def test_a_run_begins_with_the_weights(method, network, begun, tmp_path, capsys):
    start = start_of(tmp_path / "start", **network)
    source = load_pretrained(start)
    config = config_of(start, method, **network)
    state = begun(config)
    _, fresh = build(config, 5)

    expected = features(source, source.params, source.stats)
    np.testing.assert_array_equal(features(source, state.params_q, state.stats_q), expected)
    assert_equal(without_head(state.params_q), source.params)
    own_head = method in ("moco", "symmetric")
    assert_equal(state.params_q[HEAD], source.head if own_head else fresh.params_q[HEAD])
    if state.params_k:
        assert_equal((state.params_k, state.stats_k), (state.params_q, state.stats_q))
    # the rest is as in any new run
    assert_equal(state.opt_state, fresh.opt_state)
    if own_head:
        assert_equal(state.queue, fresh.queue)
    else:
        assert_equal(state.params_p, fresh.params_p)
    said = capsys.readouterr().out
    head = "its projection head" if own_head else "a new projection head"
    head += " and a new prediction head" if method in ("byol", "mocov3") else ""
    said = " ".join(said.split())
    assert f"starts from {start}, step 7, with {head}" in said


def test_statistics_come_along(begun, tmp_path):
    pretrain(tiny_config(total_steps=1), tmp_path / "start", ONE)
    source = load_pretrained(tmp_path / "start")
    state = begun(config_of(tmp_path / "start"))
    assert np.abs(source.stats["bn1"]["mean"]).max() > 0
    assert_equal((state.params_q | {HEAD: None}, state.stats_q),
                 (source.params | {HEAD: None}, source.stats))  # fmt: skip
    assert_equal((state.params_k, state.stats_k), (state.params_q, state.stats_q))


def test_a_head_of_other_shapes_or_kind_is_new(begun, tmp_path, capsys):
    start = start_of(tmp_path / "start")
    for values in ({"model.dim": 12}, {"model.mlp": False}, {"model.head": "simclr"}):
        config = config_of(start, **values)
        state = begun(config)
        assert_equal(state.params_q[HEAD], build(config, 5)[1].params_q[HEAD])
        assert_equal(without_head(state.params_q), load_pretrained(start).params)
        assert "step 7, with a new projection head" in " ".join(capsys.readouterr().out.split())


def test_a_head_with_batch_norm_comes_along(begun, tmp_path):
    values = {"model.bn_groups": 1, "model.head": "byol", "model.head_hidden": 24}
    start = start_of(tmp_path / "start", **values)
    source, state = load_pretrained(start), begun(config_of(start, "byol"))
    assert_equal(state.params_q[HEAD], source.head)
    assert_equal(state.stats_q[HEAD], source.head_stats)


@pytest.mark.parametrize("frozen", [True, False])
def test_tokens_may_be_frozen_or_trained_from_now_on(frozen, begun, tmp_path):
    start = start_of(tmp_path / "start", **VIT, **{"model.freeze_tokens": not frozen})
    source = load_pretrained(start)
    state = begun(config_of(start, **VIT, **{"model.freeze_tokens": frozen}))
    before, now = (source.params, state.stats_q) if frozen else (source.stats, state.params_q)
    assert_equal(now["patch_embed"], before["patch_embed"])
    assert_equal(state.params_q["blocks"], source.params["blocks"])


@pytest.mark.parametrize(
    "network",
    [
        {},
        VIT,
        pytest.param(
            VIT | {"model.positions": "learnable", "model.position_grid": 2},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["resnet", "sincos", "learnable"],
)
def test_images_may_have_another_size(network, tmp_path):
    start = start_of(tmp_path / "start", **network)
    larger = {"data.image_size": 24, "total_steps": 2, "log_every_steps": 1}
    state = pretrain(config_of(start, **network, **larger), tmp_path / "on", ONE)
    assert state.step == 2
    assert all(np.isfinite(line["loss"]) for line in metrics_lines(tmp_path / "on"))


@pytest.mark.parametrize(
    "method",
    ["moco", *(pytest.param(each, marks=pytest.mark.slow) for each in RECIPES if each != "moco")],
)
def test_an_interrupted_run_goes_on_without_the_source(method, tmp_path, capsys):
    start = start_of(tmp_path / "start")
    values = {"optimizer.anchor": 0.5, "log_every_steps": 1}
    whole = pretrain(config_of(start, method, total_steps=5, **values), tmp_path / "whole", ONE)
    pretrain(config_of(start, method, total_steps=2, **values), tmp_path / "parts", ONE)
    shutil.rmtree(start)
    capsys.readouterr()
    parts = pretrain(config_of(start, method, total_steps=5, **values), tmp_path / "parts", ONE)
    assert_equal(whole, parts)
    assert metrics_lines(tmp_path / "whole") == metrics_lines(tmp_path / "parts")
    assert "started from" in " ".join(capsys.readouterr().out.split())
    assert_equal(whole.opt_state.start, parts.opt_state.start)
    # and it is the same run only with the same start and anchor
    for other in ({"pretrained": "elsewhere"}, {"optimizer.anchor": 0.1}):
        with pytest.raises(UsageError, match=next(iter(other))):
            pretrain(config_of(start, method, **values | other), tmp_path / "parts", ONE)


@pytest.mark.slow
def test_an_anchor_holds_the_backbone_and_not_the_head(tmp_path):
    start = start_of(tmp_path / "start")
    source = load_pretrained(start)

    def distance(anchor):
        values = {"optimizer.anchor": anchor, "optimizer.learning_rate": 0.02, "total_steps": 8}
        state = pretrain(config_of(start, **values), tmp_path / str(anchor), ONE)
        pairs = ((without_head(state.params_q), source.params), (state.params_q[HEAD], source.head))
        return [
            sum(float(np.square(a - b).sum()) for a, b in
                zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
            for ours, theirs in pairs
        ]  # fmt: skip

    free, held = distance(0.0), distance(50.0)
    assert held[0] < 0.25 * free[0] and held[1] > 0.5 * free[1]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_split_over_eight_devices_it_is_the_same(tmp_path):
    start = start_of(tmp_path / "start")
    values = PLAIN | {"optimizer.anchor": 1.0, "total_steps": 3}
    one = pretrain(config_of(start, **values), tmp_path / "one", ONE)
    values["optimizer.shard"] = True
    eight = pretrain(config_of(start, **values), tmp_path / "eight", jax.devices()[:8])
    kernel = eight.opt_state.start["layer3"]["block0"]["conv2"]["kernel"]
    assert kernel.addressable_shards[0].data.size < kernel.size

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(1e-3, np.abs(a).max()))

    jax.tree.map(close, jax.device_get(one), jax.device_get(eight))


def test_reports_cards_and_exports_know_the_start(tmp_path):
    start = start_of(tmp_path / "start")
    pretrain(config_of(start, total_steps=1, **{"optimizer.anchor": 0.5}), tmp_path / "on", ONE)
    progress = read_progress(tmp_path / "on" / "checkpoints" / "1")
    assert progress["starts_from"] == f"{start}, step 7, with its projection head"
    assert progress["optimizer"]["anchor"] == 0.5
    (run,) = read([tmp_path / "on"])
    said = facts(run)
    assert said["started from"] == str(start) and said["schedule"].count("anchor 0.5") == 1
    export(tmp_path / "on", tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "began with the weights of start, step 7" in card and "anchor 0.5" in card
    assert str(tmp_path) not in card
    assert "the anchor is left out" in export(tmp_path / "on", tmp_path / "on.pth")


REFUSED = {
    "another arch": ({"model.arch": "resnet18"}, ["model.arch is 'resnet8' there", "=resnet8"]),
    "other fields": (
        {"model.width": 8, "model.stem": "small"},
        ["width is 4 there and 8 here", "stem is 'small_stride2' there and 'small' here",
         "--config.model.width=4 --config.model.stem=small_stride2"],
    ),
    "a ViT": (VIT, ["model.arch is 'resnet8' there and 'vit_tiny' here"]),
    "no such folder": ({"pretrained": "nowhere"}, ["There is no folder nowhere"]),
    "untrained": ({"pretrained": "untrained:nowhere"}, ["initial weights", "untrained:"]),
    "an anchor alone": (
        {"pretrained": "", "optimizer.anchor": 0.1}, ["optimizer.anchor", "--config.pretrained=RUN"]
    ),
    "too strong an anchor": ({"optimizer.anchor": 100.0}, ["less than 31.7"]),
    "a negative anchor": ({"optimizer.anchor": -1.0}, ["optimizer.anchor"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case, tmp_path):
    values, said = REFUSED[case]
    start = start_of(tmp_path / "start")
    with pytest.raises(UsageError) as raised:
        pretrain(config_of(start, **values), tmp_path / "on", ONE)
    for part in said:
        assert part in str(raised.value)
    assert not (tmp_path / "on" / "config.json").exists()


def test_another_vit_is_refused(tmp_path):
    given = VIT | {"model.positions": "learnable", "model.position_grid": 2}
    start = start_of(tmp_path / "start", **given | {"model.attention_heads": 3})
    other = given | {"model.position_grid": 4, "model.token_pooling": "mean",
                     "model.token_size": 4, "model.blocks": 2}  # fmt: skip
    with pytest.raises(UsageError) as raised:
        pretrain(config_of(start, **other), tmp_path / "on", ONE)
    for name in ("position_grid", "token_pooling", "token_size", "blocks"):
        assert f"model.{name} is {given.get(f'model.{name}', 'class')!r} there" in str(raised.value)
    assert "attention_heads" not in str(raised.value)  # 0 stands for this network's 3


def test_a_damaged_start_is_refused(tmp_path):
    start = start_of(tmp_path / "start")
    damage(start / "checkpoints" / "7")
    with pytest.raises(UsageError, match="is damaged"):
        pretrain(config_of(start), tmp_path / "on", ONE)


def test_a_damaged_run_does_not_begin_again(tmp_path):
    start = start_of(tmp_path / "start")
    pretrain(config_of(start, total_steps=1), tmp_path / "on", ONE)
    damage(tmp_path / "on" / "checkpoints" / "1")
    with pytest.raises(RunError, match="no whole checkpoint"):
        pretrain(config_of(start), tmp_path / "on", ONE)


def test_a_run_of_an_earlier_version_has_no_start(tmp_path):
    pretrain(tiny_config(total_steps=1), tmp_path, ONE)
    path = tmp_path / "config.json"
    before = json.loads(path.read_text())
    assert before["pretrained"] == "" and before["optimizer"]["anchor"] == 0.0
    progress = read_progress(tmp_path / "checkpoints" / "1")
    assert "starts_from" not in progress


def test_a_file_of_pytorch_is_trained_on(tmp_path):
    network = ResNet("resnet18", 4, False, 4)
    weights = {k: v for k, v in fill(network.state_dict()).items() if not k.startswith("fc.")}
    torch.save(weights, tmp_path / "resnet18.pth")

    def command(*argv):
        ran = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    program = ["-m", "nsneg_jax"]
    said = command(
        *program, "convert", "import", str(tmp_path / "resnet18.pth"), str(tmp_path / "start")
    )
    (line,) = (line for line in said.splitlines() if line.startswith("train on"))
    _, _, line = line.partition(" nsneg ")
    own = ["total_steps=2", "batch_size=16", "moco.queue_size=72", "model.dim=8", "pictures=False",
           "knn_every_epochs=0", "data.source=shapes:80", "data.image_size=32", "data.workers=0",
           "model.bn_groups=2", "optimizer.learning_rate=0.01", "optimizer.anchor=0.01",
           "views.blur_probability=0"]  # fmt: skip
    said = command(*program, *line.split(), *(f"--config.{each}" for each in own))
    assert f"from {tmp_path}/start, step 0 (resnet18.pth), with a new projection head" in " ".join(
        said.split()
    )
    assert "done: 2 steps" in said

    state, _ = read_checkpoint(tmp_path / "start-on" / "checkpoints" / "2", "opt_state", "params_q")
    started = to_state_dict(state["opt_state"]["start"])
    for name, array in started.items():
        np.testing.assert_array_equal(array, weights[name].numpy(), err_msg=name)
    moved = to_state_dict(without_head(state["params_q"]))
    assert all((moved[name] != array).any() for name, array in started.items())


def test_an_imported_run_asks_for_no_other_weights(tmp_path):
    start = start_of(tmp_path / "start")
    torch.save(official_content(), tmp_path / "official.pth.tar")
    import_file(tmp_path / "official.pth.tar", tmp_path / "on", images=80, batch_size=16)
    network = {"model.arch": "resnet18", "model.dim": 16, "model.stem": "imagenet"}
    with pytest.raises(UsageError, match="has an imported checkpoint, with which this run would"):
        pretrain(config_of(start, **network), tmp_path / "on", ONE)
