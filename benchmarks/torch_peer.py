"""The original's training step in plain PyTorch, to measure beside ours.

`TorchMoCo` is tuned for speed: channels-last images, autocast for bfloat16, fused SGD, the momentum
update over all parameters at once, and `torch.compile` on request. `OriginalMoCo` has the costs of
the original's code. Like the original, both run each pass (query, key, negatives) separately.
Parameter names are torchvision's.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from ml_collections import ConfigDict
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional

from nsneg_jax.methods.batches import Views
from nsneg_jax.models.resnet import ARCHS


class Outputs(NamedTuple):
    """Mean `loss` of a step and its cosine similarities: `nsneg_jax.methods.moco`."""

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
        """Returns pooled features [N, C] of images [N, 3, H, W]."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


class TorchMoCo:
    """MoCo-v2 with non-semantic negatives, in one process.

    Args:
        config: config of a pre-training job, with `model`, `moco`, `negatives` and `optimizer`.
        state_dict: initial entries of both encoders under torchvision's names.
        queue: [K, dim], the initial queue.
        device: device to compute on.
        groups: batch-norm groups, one after another in each pass; None uses those in `config`.
        compiled: whether `step` runs both encoders through `torch.compile`.
    """

    memory_format = torch.channels_last
    # TensorFloat-32 for float32 matrix products on GPUs, as in JAX's default precision.
    allow_tf32 = True
    fused_sgd: bool | None = True

    def __init__(
        self,
        config: ConfigDict,
        state_dict: Mapping[str, np.ndarray],
        queue: np.ndarray,
        device: torch.device,
        groups: int | None = None,
        compiled: bool = False,
    ):
        self.config = config
        self.device = device
        self.groups = config.model.bn_groups if groups is None else groups
        self.autocast, self.dtype = self._precision(config.model.dtype)
        self.encoder_q = self._encoder(state_dict)
        self.encoder_k = self._encoder(state_dict).requires_grad_(False)
        self._forward_q: nn.Module = self.encoder_q
        self._forward_k: nn.Module = self.encoder_k
        if compiled:
            self._forward_q = cast(nn.Module, torch.compile(self.encoder_q, dynamic=False))
            self._forward_k = cast(nn.Module, torch.compile(self.encoder_k, dynamic=False))
        self.queue = self._queue(torch.tensor(queue, dtype=self.dtype, device=device))
        self.pointer = 0
        self.optimizer = torch.optim.SGD(
            self.encoder_q.parameters(),
            config.optimizer.learning_rate,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            fused=self.fused_sgd,
        )

    @property
    def queue_rows(self) -> torch.Tensor:
        """The queue, [K, dim]."""
        return self.queue

    def views(self, views: Views) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Returns the inputs of `step`, on the device and in the encoders' memory layout.

        Args:
            views: normalised images of one batch, without negatives of the keys.
        """
        passes = range(views.negatives.shape[1])
        each = tuple(self.images(views.negatives[:, place]) for place in passes)
        return self.images(views.query), self.images(views.key), each

    def images(self, array: ArrayLike) -> torch.Tensor:
        """Converts images [N, H, W, 3] to a tensor [N, 3, H, W] on the device."""
        tensor = torch.from_numpy(np.array(array)).to(self.device, self.dtype)
        return tensor.movedim(-1, 1).contiguous(memory_format=self.memory_format)

    def step(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        negatives: Sequence[torch.Tensor],
        permutations: Sequence[torch.Tensor] | None = None,
    ) -> Outputs:
        """Takes one step.

        Args:
            query, key: [N, 3, S, S].
            negatives: M tensors like `query`.
            permutations: int [1 + M, N], shuffling BN for the key and each negative pass: place i
                of pass p takes sample permutations[p, i]. None keeps the order.
        """
        encoders = self._forward_q, self._forward_k
        outputs, logits, keys = self._losses(
            encoders, self.groups, query, key, negatives, permutations
        )
        self.optimizer.zero_grad(set_to_none=True)
        outputs.loss.backward()
        self.optimizer.step()
        self._enqueue(keys)
        outputs = Outputs(*(tensor.detach() for tensor in outputs))
        self._show(outputs.loss, logits.detach())
        return outputs

    @torch.no_grad()
    def loss(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        negatives: Sequence[torch.Tensor],
        groups: int,
    ) -> float:
        """Returns the loss of a first step with `groups` batch-norm groups, not compiled.

        Weights and queue stay; running statistics change, but training does not read them.
        """
        encoders = self.encoder_q, self.encoder_k
        return float(self._losses(encoders, groups, query, key, negatives, None)[0].loss)

    def _losses(
        self,
        encoders: tuple[nn.Module, nn.Module],
        groups: int,
        query: torch.Tensor,
        key: torch.Tensor,
        negatives: Sequence[torch.Tensor],
        permutations: Sequence[torch.Tensor] | None,
    ) -> tuple[Outputs, torch.Tensor, torch.Tensor]:
        """Returns outputs, logits [N, 1 + K + M] and the keys' embeddings [N, dim]."""
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = self.allow_tf32
        temperature, alpha = self.config.moco.temperature, self.config.negatives.alpha
        q = self._embed(encoders[0], query, groups)
        with torch.no_grad():
            self._momentum_update()
            t = []
            for place, images in enumerate((key, *negatives)):
                if permutations is None:
                    t.append(self._embed(encoders[1], images, groups))
                else:
                    order = permutations[place]
                    shuffled = self._embed(encoders[1], images[order], groups)
                    t.append(shuffled[order.argsort()])
            k, *t = t
        positive = (q * k).sum(dim=1, keepdim=True)
        negative = self._queue_similarities(q)
        logits = [positive, negative]
        nonsemantic = q.new_zeros(len(q), 0)
        if t:
            nonsemantic = torch.einsum("nd,mnd->nm", q, torch.stack(t))
            logits.append(alpha * nonsemantic)
        logits = torch.cat(logits, dim=1) / temperature
        labels = torch.zeros(len(q), dtype=torch.long, device=self.device)
        loss = functional.cross_entropy(logits, labels)
        return Outputs(loss, positive[:, 0], negative.mean(dim=1), nonsemantic), logits, k

    def _embed(self, encoder: nn.Module, images: torch.Tensor, groups: int) -> torch.Tensor:
        embeddings = []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            for group, part in enumerate(images.chunk(groups)):
                if groups > 1:
                    _set_bn_momentum(encoder, 0.1 if group == 0 else 0.0)
                embeddings.append(encoder(part))
        return functional.normalize(torch.cat(embeddings).to(self.dtype), dim=1)

    def _precision(self, dtype: str) -> tuple[bool, torch.dtype]:
        """Returns whether to autocast to bfloat16, and the dtype of parameters and images."""
        # Autocast keeps float32 parameters and casts them to bfloat16 where that is safe.
        autocast = dtype == "bfloat16"
        return autocast, torch.float32 if autocast else getattr(torch, dtype)

    def _encoder(self, state_dict: Mapping[str, np.ndarray]) -> ResNet:
        model = self.config.model
        encoder = ResNet(model.arch, model.dim, model.mlp, model.width).to(self.dtype)
        tensors = {name: torch.tensor(np.asarray(array)) for name, array in state_dict.items()}
        missing, unexpected = encoder.load_state_dict(tensors, strict=False)
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise ValueError(f"missing {missing}, unexpected {unexpected}")
        encoder.to(self.device).to(memory_format=self.memory_format)  # type: ignore[call-overload]
        return encoder.train()

    def _queue(self, rows: torch.Tensor) -> torch.Tensor:
        return rows

    def _queue_similarities(self, q: torch.Tensor) -> torch.Tensor:
        return q @ self.queue.T

    def _momentum_update(self) -> None:
        m = self.config.moco.momentum
        ours: list[torch.Tensor] = list(self.encoder_k.parameters())
        theirs: list[torch.Tensor] = list(self.encoder_q.parameters())
        torch._foreach_mul_(ours, m)
        torch._foreach_add_(ours, theirs, alpha=1 - m)

    def _enqueue(self, keys: torch.Tensor) -> None:
        rows = (self.pointer + torch.arange(len(keys), device=self.device)) % len(self.queue)
        self.queue[rows] = keys
        self.pointer = (self.pointer + len(keys)) % len(self.queue)

    def _show(self, loss: torch.Tensor, logits: torch.Tensor) -> None:
        """Does nothing: like ours, it leaves a step's metrics on the device."""


class OriginalMoCo(TorchMoCo):
    """The same step with the costs of the original's code.

    Images and weights are contiguous as NCHW; parameters are float32 and nothing is cast; on GPUs
    convolutions compute in TensorFloat-32 and matrix products in float32, PyTorch's defaults; SGD
    chooses its form by itself; the key encoder's parameters are replaced one by one; the queue
    holds one key per column and is copied in each step; crops of keys and negatives are shuffled,
    even in one process; the host reads loss, top-1 and top-5 accuracy after each step.

    Exchanges between processes are left out, and DistributedDataParallel's wrapper with them,
    because there is only one process. The wrapper would at most copy the gradients.
    """

    memory_format = torch.contiguous_format
    allow_tf32 = False
    fused_sgd = None  # PyTorch chooses

    @property
    def queue_rows(self) -> torch.Tensor:
        """The queue, [K, dim]."""
        return self.queue.T

    def step(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        negatives: Sequence[torch.Tensor],
        permutations: Sequence[torch.Tensor] | None = None,
    ) -> Outputs:
        """Does `TorchMoCo.step`; None draws the permutations.

        Raises:
            ValueError: the batch does not divide the queue, as the original requires.
        """
        if self.queue.shape[1] % len(query):
            raise ValueError(f"a queue of {self.queue.shape[1]} is no multiple of {len(query)}")
        if permutations is None:
            passes = 1 + len(negatives)
            permutations = [torch.randperm(len(query)).to(self.device) for _ in range(passes)]
        return super().step(query, key, negatives, permutations)

    def _precision(self, dtype: str) -> tuple[bool, torch.dtype]:
        return False, torch.float64 if dtype == "float64" else torch.float32

    def _queue(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.T.contiguous()

    def _queue_similarities(self, q: torch.Tensor) -> torch.Tensor:
        return q @ self.queue.clone()

    def _momentum_update(self) -> None:
        m = self.config.moco.momentum
        pairs = zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True)
        for ours, theirs in pairs:
            ours.data = m * ours.data + (1 - m) * theirs.data

    def _enqueue(self, keys: torch.Tensor) -> None:
        end = self.pointer + len(keys)
        self.queue[:, self.pointer : end] = keys.T
        self.pointer = end % self.queue.shape[1]

    def _show(self, loss: torch.Tensor, logits: torch.Tensor) -> None:
        best = logits.topk(5, dim=1).indices == 0
        for figure in (loss, best[:, :1].float().mean(), best.float().sum(dim=1).mean()):
            figure.item()


def _set_bn_momentum(encoder: nn.Module, momentum: float) -> None:
    # Only the first group updates the running statistics, as under DistributedDataParallel.
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
