"""BYOL, SimCLR and MoCo-v3 with non-semantic negatives in plain PyTorch, in one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_peer import ResNet
from nsneg_jax.pytorch.names import to_state_dict


def head(kind: str, inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A projection or prediction head; 'mocov3-predictor' is that of ResNets."""
    bias = kind == "byol"
    layers = [nn.Linear(inputs, hidden, bias=bias), nn.BatchNorm1d(hidden), nn.ReLU()]
    if kind == "mocov3_vit":
        layers += [nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
    layers += [nn.Linear(hidden, outputs, bias=False)]
    if kind in ("mocov3", "mocov3_vit"):
        layers += [nn.BatchNorm1d(outputs, affine=False)]
    if kind == "simclr":
        last = nn.BatchNorm1d(outputs)
        last.bias.requires_grad_(False)
        layers += [last]
    return nn.Sequential(*layers)


def fill(module: nn.Module, entries: dict[str, np.ndarray]) -> None:
    """Sets parameters and statistics; what stays is a counter, or a fixed bias of 0."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in entries.items()}
    missing, surplus = module.load_state_dict(tensors, strict=False)
    fixed = {name for name, leaf in module.named_parameters() if not leaf.requires_grad}
    assert not surplus
    assert all(name.endswith("num_batches_tracked") or name in fixed for name in missing)


def entries_of(params, stats) -> dict[str, np.ndarray]:
    """Entries of one of our predictors by the names of a `head`."""
    found = to_state_dict({"fc": params}, {"fc": stats})
    return {name.removeprefix("fc."): array for name, array in found.items()}


@contextmanager
def keeping_statistics(network: nn.Module) -> Iterator[None]:
    """Lets passes update copies of the running statistics; gradients keep what they need."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    before = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean, norm.running_var = norm.running_mean.clone(), norm.running_var.clone()
    yield
    for norm, (mean, var) in zip(norms, before, strict=True):
        norm.running_mean, norm.running_var = mean, var


def cos(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T


class Anchor:
    """Half the squared distance of an encoder without its head to where it began, weighted."""

    def __init__(self, encoder: nn.Module, weight: float):
        self.weight = weight
        named = [(name, leaf) for name, leaf in encoder.named_parameters() if name[:3] != "fc."]
        self.pairs = [(leaf, leaf.detach().clone()) for _, leaf in named]

    def __call__(self):
        return self.weight / 2 * sum(((now - then) ** 2).sum() for now, then in self.pairs)


class SymmetricMoCo:
    """MoCo-v2 with both views as queries, in one batch-norm group, begun with our state."""

    def __init__(self, config, state):
        self.config, model = config, config.model
        self.encoder = ResNet(model.arch, model.dim, model.mlp, model.width).double()
        fill(self.encoder, to_state_dict(state.params_q, state.stats_q))
        self.target = deepcopy(self.encoder).requires_grad_(False)
        self.anchor = Anchor(self.encoder, config.optimizer.anchor)
        self.queue = torch.from_numpy(np.array(state.queue))
        self.pointer = 0
        self.sgd = torch.optim.SGD(
            self.encoder.parameters(),
            lr=1.0,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )

    def step(self, images, negatives, lr: float) -> float:
        """Takes one step; see `Reference.step`."""
        moco = self.config.moco
        with torch.no_grad():
            pairs = zip(self.target.parameters(), self.encoder.parameters(), strict=True)
            for k, q in pairs:
                k.copy_(moco.momentum * k + (1 - moco.momentum) * q)
        losses, keys = [], []
        for asked, found, of_view in zip(images, images[::-1], negatives, strict=True):
            q = functional.normalize(self.encoder(asked), dim=1)
            with torch.no_grad():
                k = functional.normalize(self.target(found), dim=1)
                ts = [functional.normalize(self.target(x), dim=1) for x in of_view]
            columns = [(q * k).sum(1, keepdim=True), q @ self.queue.T]
            alpha = self.config.negatives.alpha
            columns += [alpha * (q * t).sum(1, keepdim=True) for t in ts]
            logits = torch.cat(columns, dim=1) / moco.temperature
            losses.append(functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long)))
            keys.append(k)
        loss = (losses[0] + losses[1]) / 2
        for group in self.sgd.param_groups:
            group["lr"] = lr
        self.sgd.zero_grad()
        (loss + self.anchor()).backward()
        self.sgd.step()
        for key in torch.cat(keys[::-1]):  # those of the first views first
            self.queue[self.pointer] = key
            self.pointer = (self.pointer + 1) % len(self.queue)
        return loss.item()


class Reference:
    """One method, begun with the parameters and statistics of our state."""

    def __init__(self, config, state, features: int):
        self.config, model = config, config.model
        self.encoder = ResNet(model.arch, model.dim, True, model.width)
        hidden = features if model.head == "simclr" else model.head_hidden
        self.encoder.fc = head(model.head, features, hidden, model.dim)
        self.encoder.double()
        fill(self.encoder, to_state_dict(state.params_q, state.stats_q))
        self.target = deepcopy(self.encoder).requires_grad_(False)
        self.anchor = Anchor(self.encoder, config.optimizer.anchor)
        trained = list(self.encoder.parameters())
        self.predictor = None
        if config.method != "simclr":
            own = {"mocov3": "mocov3-predictor", "mocov3_vit": "mocov3"}
            kind = own.get(model.head, model.head)
            self.predictor = head(kind, model.dim, model.head_hidden, model.dim).double()
            fill(self.predictor, entries_of(state.params_p, state.stats_p))
            trained += list(self.predictor.parameters())
        self.sgd = torch.optim.SGD(
            [leaf for leaf in trained if leaf.requires_grad],
            lr=1.0,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )
        self.step_number = 0

    def step(self, images, negatives, lr: float) -> float:
        """Takes one step.

        Args:
            images: both views, each [N, 3, S, S].
            negatives: M per view, each [N, 3, S, S].
            lr: learning rate.
        """
        loss = getattr(self, self.config.method)(images, negatives)
        for group in self.sgd.param_groups:
            group["lr"] = lr
        self.sgd.zero_grad()
        (loss + self.anchor()).backward()
        self.sgd.step()
        if self.config.method == "byol":  # after the step, with the new parameters
            self.follow(self.step_number)
        self.step_number += 1
        return loss.item()

    def byol(self, images, negatives):
        alpha = self.config.negatives.alpha
        predictions = [self.predictor(z) for z in [self.encoder(x) for x in images]]
        targets, pushed = self.embed_targets(images, negatives)
        loss = 0
        for p, z, ts in zip(predictions, targets[::-1], pushed, strict=True):
            loss = loss - 2 * cos(p, z).diagonal().mean()
            for t in ts:
                loss = loss + 2 * alpha * cos(p, t).diagonal().mean()
        return loss

    def mocov3(self, images, negatives):
        temperature = self.config.siamese.temperature
        queries = [self.predictor(z) for z in [self.encoder(x) for x in images]]
        self.follow(self.step_number)  # before the keys
        keys, pushed = self.embed_targets(images, negatives)
        loss = 0
        for q, k, ts in zip(queries, keys[::-1], pushed, strict=True):
            logits = torch.cat([cos(q, k) / temperature, self.of_negatives(q, ts)], dim=1)
            labels = torch.arange(len(q))
            loss = loss + 2 * temperature * functional.cross_entropy(logits, labels)
        return loss

    def simclr(self, images, negatives):
        z = self.encoder(torch.cat(images))
        with keeping_statistics(self.encoder), self.gradient_of_negatives():
            pushed = [self.encoder(torch.cat(pair)) for pair in zip(*negatives, strict=True)]
        logits = cos(z, z) / self.config.siamese.temperature
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
        logits = torch.cat([logits, self.of_negatives(z, pushed)], dim=1)
        labels = torch.arange(len(z)).roll(len(z) // 2)
        return functional.cross_entropy(logits, labels)

    def gradient_of_negatives(self):
        return torch.set_grad_enabled(self.config.siamese.negative_gradient)

    def of_negatives(self, queries, pushed):
        scale = self.config.negatives.alpha / self.config.siamese.temperature
        columns = [scale * cos(queries, t).diagonal() for t in pushed]
        return torch.stack(columns, dim=1) if columns else queries[:, :0]

    @torch.no_grad()
    def embed_targets(self, images, negatives):
        keys, pushed = [], []
        for image, of_view in zip(images, negatives, strict=True):
            keys.append(self.target(image))
            pushed.append([self.target(x) for x in of_view])
        return keys, pushed

    @torch.no_grad()
    def follow(self, step: int):
        config = self.config
        total = config.epochs * 5  # steps per epoch, see the tests
        m = 1 - (1 - config.siamese.momentum) * (1 + np.cos(np.pi * step / total)) / 2
        pairs = zip(self.target.parameters(), self.encoder.parameters(), strict=True)
        for k, q in pairs:
            k.copy_(m * k + (1 - m) * q)
