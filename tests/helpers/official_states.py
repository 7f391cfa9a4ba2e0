"""States of the original's modules and optimiser, made by PyTorch, for the tests of conversion."""

from collections import OrderedDict

import numpy as np
import torch

from benchmarks.torch_peer import ResNet

POINTER = 20


def fill(state_dict: dict, seed: int = 0) -> dict:
    """The same entries with random values: every float and every integer is its own."""
    rng = np.random.default_rng(seed)
    filled = OrderedDict()
    for name, tensor in state_dict.items():
        shape = tuple(tensor.shape)
        if name.endswith("queue_ptr"):
            array = np.array([POINTER])
        elif tensor.dtype == torch.int64:
            array = rng.integers(0, 2**40, shape)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, np.sqrt(2 / max(np.prod(shape[1:]), 1)), shape)
        filled[name] = torch.as_tensor(array).to(tensor.dtype)
    return filled


def moco_module(arch="resnet18", mlp=True, dim=16, keys=72, width=4) -> torch.nn.Module:
    """A module that lists its parameters and buffers as the original's does."""
    model = torch.nn.Module()
    model.encoder_q = ResNet(arch, dim, mlp, width)
    model.encoder_k = ResNet(arch, dim, mlp, width).requires_grad_(False)
    model.register_buffer("queue", torch.zeros(dim, keys))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))
    return torch.nn.ModuleDict({"module": model})


def sgd_after_a_step(model: torch.nn.Module) -> torch.optim.SGD:
    """The original's optimiser: over both encoders, of which one has gradients."""
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return optimizer


def official_content(arch="resnet18") -> dict:
    """Returns the state that the original's script saves after a step."""
    module = moco_module(arch)
    optimizer = sgd_after_a_step(module).state_dict()
    state_dict = fill(module.state_dict())
    return {"epoch": 3, "arch": arch, "state_dict": state_dict, "optimizer": optimizer}
