"""The reference: CLIP-Adapter as one writes it, one run at a time; uses nothing of the engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class PlainRecipe:
    """How the reference is optimised; the engine's defaults."""

    lr: float = 1e-3
    weight_decay: float = 1e-2
    epochs: int = 50
    batch_size: int = 256


class PlainAdapter(nn.Module):
    """`s norm(a A(x) + (1 - a) x) w^T`, the authors' module on cached features."""

    def __init__(self, ratio: float, hidden: int, weights: Tensor, scale: float) -> None:
        super().__init__()
        width = weights.shape[1]
        self.adapter = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width, bias=False),
            nn.ReLU(inplace=True),
        )
        self.ratio, self.scale = ratio, scale
        self.weights = weights  # (C, D)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores. (B, C)"""
        blend = self.ratio * self.adapter(x) + (1 - self.ratio) * x  # (B, D)
        return self.scale * normalize(blend, dim=-1) @ self.weights.T


def train_plain(model: nn.Module, x: Tensor, y: Tensor, recipe: PlainRecipe, seed: int) -> None:
    """Train one model in place: a DataLoader over a TensorDataset, AdamW, cosine decay."""
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(x, y), batch_size=recipe.batch_size, shuffle=True, generator=order
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * len(loader))
    for _ in range(recipe.epochs):
        for batch, labels in loader:
            loss = cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images whose highest logit is their class's, in percent."""
    return 100 * float((model(x).argmax(-1) == y).float().mean())
