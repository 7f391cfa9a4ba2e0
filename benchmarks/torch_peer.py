"""The original's training step in plain PyTorch, to be measured beside ours.

Written as a competent user would run it: channels-last images, autocast for bfloat16, fused SGD,
the momentum update over all parameters at once. Parameter names are torchvision's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional

from nsneg_jax.models.resnet import ARCHS


class Outputs(NamedTuple):
    """Mean `loss` of a step and its cosine similarities, per sample: see `nsneg_jax.moco`."""

    loss: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor
    nonsemantic: torch.Tensor


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """A residual block, 'basic' or 'bottleneck'."""

    def __init__(self, kind: str, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = width * (4 if kind == "bottleneck" else 1)
        if kind == "bottleneck":
            shapes = [(inputs, width, 1), (width, width, 3, stride), (width, outputs, 1)]
        else:
            shapes = [(inputs, width, 3, stride), (width, width, 3)]
        self.depth = len(shapes)
        for place, shape in enumerate(shapes, 1):
            self.add_module(f"conv{place}", _conv(*shape))
            self.add_module(f"bn{place}", nn.BatchNorm2d(shape[1]))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            self.downsample = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for place in range(1, self.depth + 1):
            x = getattr(self, f"bn{place}")(getattr(self, f"conv{place}")(x))
            if place == self.depth:
                x += shortcut
            x = functional.relu(x, inplace=True)
        return x


class ResNet(nn.Module):
    """A ResNet of `nsneg_jax.models.resnet.ARCHS` with the 'imagenet' stem and MoCo's head."""

    def __init__(self, arch: str, dim: int, mlp: bool, width: int = 64):
        super().__init__()
        kind, blocks_per_stage = ARCHS[arch]
        self.conv1 = _conv(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        self.stages = len(blocks_per_stage)
        for stage, count in enumerate(blocks_per_stage):
            layer = nn.Sequential()
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                block = Block(kind, inputs, width * 2**stage, stride)
                inputs = width * 2**stage * (4 if kind == "bottleneck" else 1)
                layer.append(block)
            self.add_module(f"layer{stage + 1}", layer)
        head = nn.Linear(inputs, dim)
        self.fc = nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), head) if mlp else head

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features [N, C] of images [N, 3, H, W]."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


class TorchMoCo:
    """MoCo-v2 with non-semantic negatives, one process.

    Args:
        config: of a pre-training job; `model`, `moco`, `negatives` and `optimizer` are used.
        state_dict: initial entries of both encoders under torchvision's names.
        queue: [K, dim], the initial queue.
        device: to compute on.
    """

    def __init__(
        self,
        config: ConfigDict,
        state_dict: Mapping[str, np.ndarray],
        queue: np.ndarray,
        device: torch.device,
    ):
        self.config = config
        self.device = device
        # autocast keeps float32 parameters and makes bfloat16 of them where it is safe
        self.autocast = config.model.dtype == "bfloat16"
        self.dtype = torch.float32 if self.autocast else getattr(torch, config.model.dtype)
        self.encoder_q = self._encoder(state_dict)
        self.encoder_k = self._encoder(state_dict).requires_grad_(False)
        self.queue = torch.tensor(np.asarray(queue), dtype=self.dtype, device=device)
        self.pointer = 0
        self.optimizer = torch.optim.SGD(
            self.encoder_q.parameters(),
            config.optimizer.learning_rate,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )

    def _encoder(self, state_dict: Mapping[str, np.ndarray]) -> ResNet:
        model = self.config.model
        encoder = ResNet(model.arch, model.dim, model.mlp, model.width).to(self.dtype)
        tensors = {name: torch.tensor(np.asarray(array)) for name, array in state_dict.items()}
        missing, unexpected = encoder.load_state_dict(tensors, strict=False)
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise ValueError(f"missing {missing}, unexpected {unexpected}")
        return encoder.to(self.device, memory_format=torch.channels_last).train()

    def images(self, array: np.ndarray) -> torch.Tensor:
        """Images [..., H, W, 3] on the device, [..., 3, H, W] with channels last in memory."""
        tensor = torch.from_numpy(np.array(array)).to(self.device, self.dtype)
        return tensor.movedim(-1, -3)

    def step(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        negatives: torch.Tensor,
        permutations: torch.Tensor | None = None,
    ) -> Outputs:
        """One step.

        Args:
            query: [N, 3, S, S]. key: likewise. negatives: [N, M, 3, S, S].
            permutations: int [1 + M, N], shuffling BN for the key and each negative pass: place i
                takes sample permutations[p, i]. None leaves the order alone.
        """
        temperature, alpha = self.config.moco.temperature, self.config.negatives.alpha
        q = self._embed(self.encoder_q, query)
        with torch.no_grad():
            self._momentum_update()
            t = []
            for place, images in enumerate([key, *negatives.unbind(1)]):
                if permutations is None:
                    t.append(self._embed(self.encoder_k, images))
                else:
                    order = permutations[place]
                    shuffled = self._embed(self.encoder_k, images[order])
                    t.append(shuffled[order.argsort()])
            k, *t = t
        positive = (q * k).sum(dim=1, keepdim=True)
        negative = q @ self.queue.T
        logits = [positive, negative]
        nonsemantic = q.new_zeros(len(q), 0)
        if t:
            nonsemantic = torch.einsum("nd,mnd->nm", q, torch.stack(t))
            logits.append(alpha * nonsemantic)
        logits = torch.cat(logits, dim=1) / temperature
        labels = torch.zeros(len(q), dtype=torch.long, device=self.device)
        loss = functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._enqueue(k)
        outputs = loss, positive[:, 0], negative.mean(dim=1), nonsemantic
        return Outputs(*(tensor.detach() for tensor in outputs))

    def _embed(self, encoder: ResNet, images: torch.Tensor) -> torch.Tensor:
        embeddings = []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            for group, part in enumerate(images.chunk(self.config.model.bn_groups)):
                if self.config.model.bn_groups > 1:
                    _set_bn_momentum(encoder, 0.1 if group == 0 else 0.0)
                embeddings.append(encoder(part))
        return functional.normalize(torch.cat(embeddings).to(self.dtype), dim=1)

    def _momentum_update(self) -> None:
        m = self.config.moco.momentum
        ours, theirs = list(self.encoder_k.parameters()), list(self.encoder_q.parameters())
        torch._foreach_mul_(ours, m)
        torch._foreach_add_(ours, theirs, alpha=1 - m)

    def _enqueue(self, keys: torch.Tensor) -> None:
        rows = (self.pointer + torch.arange(len(keys), device=self.device)) % len(self.queue)
        self.queue[rows] = keys
        self.pointer = (self.pointer + len(keys)) % len(self.queue)


def _set_bn_momentum(encoder: ResNet, momentum: float) -> None:
    # only the first group's statistics join the running ones, as under DistributedDataParallel
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
