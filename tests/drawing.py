"""Few-shot tasks made of noise around class directions, for tests of methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.stored_rows import PreProjection, StoredRows
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Validation
from cafe.methods.prompt_learning.prompts import TextTower

CLASSES, WIDTH = 5, 24


def draw_task(
    counts: tuple[int, ...] = (4,) * CLASSES,
    *,
    seed: int = 0,
    views: int = 0,
    bias: float = 0.0,
    prompts: int = 3,
) -> TrainingSet:
    """Shots of each class as counted, not normalised, rows shuffled."""
    generator = torch.Generator().manual_seed(seed)
    text = draw_text(bias=bias, prompts=prompts)
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    y = y[torch.randperm(len(y), generator=generator)]
    x = _images(y, generator)
    copies = [x + 0.3 * torch.randn(x.shape, generator=generator) for _ in range(views - 1)]
    stacked = torch.stack([x, *copies], 1) if views else None
    before = _before(x[:, None] if stacked is None else stacked, seed)
    return TrainingSet(Features(x, y, stacked, _maps(y, seed), pre_projection=before), text)


def draw_text(*, bias: float = 0.0, prompts: int = 3) -> ClassText:
    """Texts that lean towards the directions of the images."""
    generator = torch.Generator().manual_seed(99)
    shape = (CLASSES, prompts, WIDTH)
    features = _directions()[:, None] + 0.8 * torch.randn(shape, generator=generator)
    names = tuple(f"class {label}" for label in range(CLASSES))
    return ClassText(3 * features, names, logit_scale=20.0, logit_bias=bias)


def draw_images(per_class: int = 6, seed: int = 7) -> Features:
    """Held-out images."""
    y = torch.arange(CLASSES).repeat(per_class)
    x = _images(y, torch.Generator().manual_seed(seed))
    before = _before(x[:, None], seed)
    return Features(x, y, spatial_maps=_maps(y, seed), pre_projection=before)


def draw_validation_set() -> Validation:
    """Validation images under the protocol that takes all of them."""
    return Validation("full", draw_images(seed=8))


def _maps(y: Tensor, seed: int) -> StoredRows:
    """Maps of four tokens, one of them of the image's class. (N, 4, D)"""
    generator = torch.Generator().manual_seed(1000 + seed)
    noise = torch.randn(len(y), 4, WIDTH, generator=generator)
    place = torch.randint(4, (len(y),), generator=generator)
    noise[torch.arange(len(y)), place] += 2 * _directions()[y]
    return StoredRows.of(2 * noise)


def _before(views: Tensor, seed: int) -> PreProjection:
    """Features of three numbers more, whose projection are these views. (N, V, D + 3)"""
    generator = torch.Generator().manual_seed(2000 + seed)
    h = torch.cat([views, torch.randn(*views.shape[:2], 3, generator=generator)], dim=-1)
    turn = torch.linalg.qr(torch.randn(WIDTH + 3, WIDTH + 3, generator=_fixed(97)))[0]
    return PreProjection(StoredRows.of(h @ turn.mT), turn[:, :WIDTH], torch.zeros(WIDTH))


def _fixed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _directions() -> Tensor:
    return torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(98))


def _images(y: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(len(y), WIDTH, generator=generator)
    return 5 * normalize(_directions()[y] + 1.1 * noise, dim=-1)


class DrawnTower(TextTower):
    """A text tower whose tokens are letters; digits lean towards the images of their class."""

    width = WIDTH
    length, start, end = 48, 1, 127

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(97)
        self.table = 0.2 * torch.randn(128, WIDTH, generator=generator)
        self.mix = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
        leaning = _directions() + 0.8 * torch.randn(CLASSES, WIDTH, generator=generator)
        self.table[48 : 48 + CLASSES] = leaning

    def tokens(self, sentences: Sequence[str]) -> Tensor:
        rows = [[self.start, *map(ord, text), self.end] for text in sentences]
        return torch.tensor([row + [0] * (self.length - len(row)) for row in rows])

    def look_up(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def encode(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        inside = (tokens > self.start) & (tokens < self.end)
        mean = (embeddings * inside[..., None]).mean(dim=1)
        return mean + torch.tanh(mean) @ self.mix

    def to(self, device: torch.device) -> DrawnTower:
        self.table, self.mix = self.table.to(device), self.mix.to(device)
        return self

    def floats(self, length: int) -> int:
        return 4 * length * WIDTH

    def trim(self, tokens: Tensor) -> Tensor:
        return tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
