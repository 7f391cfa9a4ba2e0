"""Fine-tuning beside the same steps in plain PyTorch, in float64, on one and eight devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn import functional

from benchmarks.torch_peer import ResNet
from nsneg_jax import models
from nsneg_jax.jobs.probing.finetuning import compile_steps
from nsneg_jax.methods import finetune
from nsneg_jax.methods.optimizer import sgd
from nsneg_jax.methods.views import IMAGENET_MEAN, IMAGENET_STD
from nsneg_jax.parallel import mesh
from nsneg_jax.pytorch.names import to_state_dict

STEPS, IMAGES, CLASSES, SIDE = 4, 16, 5, 32
SMOOTHING, ANCHOR, FACTOR, RATE, MOMENTUM, DECAY = 0.1, 0.3, 2.0, 0.1, 0.9, 1e-3


def batches():
    rng = np.random.default_rng(3)
    for step in range(STEPS):
        valid = np.arange(IMAGES) < (IMAGES if step % 2 else IMAGES - 3)
        yield {
            "image": rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8),
            "label": rng.integers(0, CLASSES, IMAGES, dtype=np.int32),
            "valid": valid,
        }


def method_and_state(dtype="float64"):
    encoder, params, stats = models.build("resnet8", dim=0, width=8, dtype=dtype, seed=1)
    method = finetune.FineTuning(
        encoder=encoder,
        optimizer=sgd(optax.constant_schedule(RATE), momentum=MOMENTUM, weight_decay=DECAY),
        flip_probability=0.0,
        dtype=dtype,
        seed=0,
        classifier_factor=FACTOR,
        label_smoothing=SMOOTHING,
        anchor=ANCHOR,
        groups=1,
    )
    backbone = {"params": params, "stats": stats}
    return method, finetune.init_state(method, backbone, encoder_width(params), CLASSES)


def encoder_width(params):
    return params["layer3"]["block0"]["conv2"]["kernel"].shape[-1]


def in_pytorch(state):
    """The parameters after the steps, by torchvision's names, and the sum of the losses."""
    network = ResNet("resnet8", dim=1, mlp=False, width=8).double()
    arrays = to_state_dict(*state.backbone.values())
    weights = {name: torch.as_tensor(np.array(array)) for name, array in arrays.items()}
    network.load_state_dict(weights, strict=False)
    network.fc = torch.nn.Identity()
    head = torch.nn.Linear(state.classifier["kernel"].shape[1], CLASSES).double()
    head.weight.data = torch.as_tensor(np.array(state.classifier["kernel"][0])).T.clone()
    head.bias.data = torch.as_tensor(np.array(state.classifier["bias"][0]))
    start = [parameter.detach().clone() for parameter in network.parameters()]
    groups = [
        {"params": network.parameters(), "lr": RATE},
        {"params": head.parameters(), "lr": RATE * FACTOR},
    ]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=DECAY)
    mean, std = (
        torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    total = 0.0
    for batch in batches():
        images = (torch.as_tensor(batch["image"]).double() / 255 - mean) / std
        labels, valid = torch.as_tensor(batch["label"]).long(), torch.as_tensor(batch["valid"])
        outputs = head(network(images.permute(0, 3, 1, 2)))
        total += functional.cross_entropy(outputs[valid], labels[valid], reduction="sum").item()
        loss = functional.cross_entropy(outputs[valid], labels[valid], label_smoothing=SMOOTHING)
        distance = sum(
            ((p - s) ** 2).sum() for p, s in zip(network.parameters(), start, strict=True)
        )
        optimizer.zero_grad()
        (loss + ANCHOR * distance / 2).backward()
        optimizer.step()
    return network.state_dict(), head, total


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_steps_follow_pytorch(devices, float64, quick_code):
    method, state = method_and_state()
    weights, head, total = in_pytorch(state)
    split = mesh.data_mesh(jax.devices()[:devices])
    train_step, _ = compile_steps(method, split)
    state = mesh.put(state, mesh.replicated(split))
    for batch in batches():
        state = train_step(state, mesh.put(batch, mesh.split_batch(split)))
    ours = to_state_dict(state.backbone["params"], state.backbone["stats"])
    for name, array in ours.items():
        np.testing.assert_allclose(
            array, weights[name].numpy(), rtol=1e-9, atol=1e-12, err_msg=name
        )
    np.testing.assert_allclose(state.classifier["kernel"][0].T, head.weight.detach(), rtol=1e-9)
    np.testing.assert_allclose(state.sums["loss"][0], total, rtol=1e-9)
    assert state.sums["images"] == sum(batch["valid"].sum() for batch in batches())


def test_smoothed_cross_entropy_is_pytorchs():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    for smoothing in (0.0, 0.3):
        got = finetune.smoothed_cross_entropy(jnp.asarray(outputs), jnp.asarray(labels), smoothing)
        want = functional.cross_entropy(
            torch.as_tensor(outputs),
            torch.as_tensor(labels),
            reduction="none",
            label_smoothing=smoothing,
        )
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_end_of_an_epoch_keeps_the_last_classifier():
    _, state = method_and_state("float32")
    for epoch, accuracy in ((1, 60.0), (2, 40.0)):
        changed = jax.tree.map(lambda leaf, epoch=epoch: leaf + epoch, state.classifier)
        state = dataclasses.replace(state, classifier=changed)
        state = finetune.end_epoch(state, jnp.array([accuracy]), jnp.int32(epoch))
    np.testing.assert_array_equal(state.best["bias"], state.classifier["bias"])
    assert state.best_accuracy[0] == 40 and state.best_epoch[0] == 2
