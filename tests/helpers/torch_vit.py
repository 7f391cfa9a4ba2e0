"""A ViT and MoCo's step in plain PyTorch, with timm's names of modules."""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, features, heads):
        super().__init__()
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)
        self.heads = heads

    def forward(self, x):
        n, tokens, features = x.shape
        q, k, v = (
            part.reshape(n, tokens, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, features))


class Mlp(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, features)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, features, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=1e-6)
        self.attn = Attention(features, heads)
        self.norm2 = nn.LayerNorm(features, eps=1e-6)
        self.mlp = Mlp(features)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def sincos(grid, features):
    """MoCo-v3's positions, one token after the other."""
    rows = []
    for place in range(grid * grid):
        parts = []
        for coordinate in (place // grid, place % grid):
            angles = [coordinate / 10000 ** (4 * i / features) for i in range(features // 4)]
            angles = torch.tensor(angles, dtype=torch.float64)
            parts += [angles.sin(), angles.cos()]
        rows.append(torch.cat(parts))
    return torch.stack([torch.zeros(features, dtype=torch.float64), *rows])[None]


class PatchEmbed(nn.Module):
    def __init__(self, size, features):
        super().__init__()
        self.proj = nn.Conv2d(3, features, size, size)


class ViT(nn.Module):
    """`forward` gives the features; `fc`, if there is one, is MoCo-v2's head."""

    def __init__(self, features, heads, blocks, size, grid, dim=0, positions="sincos"):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, features))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, features))
        if positions == "sincos":
            self.pos_embed = nn.Parameter(sincos(grid, features), requires_grad=False)
        self.patch_embed = PatchEmbed(size, features)
        self.blocks = nn.Sequential(*(Block(features, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(features, eps=1e-6)
        if dim:
            self.fc = nn.Sequential(
                nn.Linear(features, features), nn.ReLU(), nn.Linear(features, dim)
            )

    def tokens(self, images):
        """All tokens [N, 1 + T, W] after the last norm."""
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))

    def forward(self, images):
        return self.tokens(images)[:, 0]

    def load(self, state_dict):
        """Loads arrays by name; positions that are not there stay."""
        tensors = {name: torch.from_numpy(array.copy()) for name, array in state_dict.items()}
        missing, unexpected = self.load_state_dict(tensors, strict=False)
        assert not unexpected and set(missing) <= {"pos_embed"}


def moco_step(query, key, queue, images, *, alpha, momentum, temperature, optimizer):
    """One step of MoCo-v2 with negatives; returns the loss and the new queue.

    `images` are the query view, the key view and one negative; the queue is a multiple of them.
    """
    view, positive, negative = images
    with torch.no_grad():
        for slow, fast in zip(key.parameters(), query.parameters(), strict=True):
            slow.copy_(slow * momentum + fast * (1 - momentum))
        k, t = (functional.normalize(key.fc(key(x))) for x in (positive, negative))
    q = functional.normalize(query.fc(query(view)))
    logits = [(q * k).sum(1, keepdim=True), q @ queue.T, alpha * (q * t).sum(1, keepdim=True)]
    logits = torch.cat(logits, dim=1) / temperature
    loss = functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), torch.cat([k, queue[len(k) :]])
