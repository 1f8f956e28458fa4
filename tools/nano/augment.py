"""Masks of characters become images: warped, thickened, blurred, coarse, noisy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nano.captions import INDEX
from nano.fonts import BOX, CANVAS


class Augment:
    """Turn masks into images as a camera or a small scanner might see them.

    Parameters
    ----------
    size
        Side of the images in pixels.
    generator
        The only source of randomness.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return `count` uniform draws from [low, high), shape (count,)."""
        return low + (high - low) * torch.rand(count, generator=self.generator)

    def chance(self, count: int, share: float) -> Tensor:
        """Return a bool per image, true for about `share` of them, shape (count,)."""
        return self.uniform(count) < share

    def __call__(self, masks: Tensor, facts: Tensor) -> tuple[Tensor, Tensor]:
        """Make images from masks.

        Parameters
        ----------
        masks
            Ink in [0, 1], shape (B, 64, 64).
        facts
            What holds of each font, bool, shape (B, len(STYLES)).

        Returns
        -------
        tuple of Tensor
            Grey images in [0, 1], shape (B, 1, size, size), and the facts with those added that
            the augmentation made true.
        """
        facts = facts.clone()
        ink = self.wear(self.stroke(masks[:, None], facts), facts)
        ink = self.warp(ink, facts)
        ink = self.soften(ink, facts)
        ink = self.coarsen(ink, facts)
        return self.expose(ink, facts), facts

    def stroke(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Thicken a third of the strokes, some of them twice or thrice, and thin a few."""
        thick, thicker = self.chance(len(ink), 0.35), self.chance(len(ink), 0.2)
        thin = self.chance(len(ink), 0.15) & ~thick & ~facts[:, INDEX["thin"]]
        ink = ink.clone()
        ink[thick] = F.max_pool2d(ink[thick], 3, 1, 1)
        ink[thicker] = F.max_pool2d(ink[thicker], 5, 1, 2)
        ink[thin] = -F.max_pool2d(-ink[thin], 3, 1, 1)
        facts[:, INDEX["bold"]] |= thick & thicker & ~facts[:, INDEX["thin"]]
        facts[:, INDEX["bold"]] &= ~thin
        facts[:, INDEX["thin"]] &= ~(thick | thicker)
        return ink

    def wear(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Rub a round hole into a third, where a pen may have skipped: loops may open."""
        count = len(ink)
        worn = self.chance(count, 0.3)
        centre = torch.randn(count, 2, generator=self.generator) * (BOX / 4) + CANVAS / 2
        radius = torch.where(worn, self.uniform(count, 3.0, 7.0), 0.0)
        axis = torch.arange(CANVAS) + 0.5
        across = (axis[None] - centre[:, :1]) ** 2  # (B, 64)
        down = (axis[None] - centre[:, 1:]) ** 2  # (B, 64)
        hole = across[:, None, :] + down[:, :, None] < radius[:, None, None] ** 2  # (B, 64, 64)
        facts[:, INDEX["worn"]] = worn & (ink[:, 0] * hole).flatten(1).any(1)
        return ink * ~hole[:, None]

    def warp(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Rotate, shear, stretch, shift and bend."""
        count = len(ink)
        angle = self.uniform(count, -0.25, 0.25)
        shear = torch.randn(count, generator=self.generator) * 0.2
        # A glyph's longer side is BOX of CANVAS: a zoom of CANVAS / BOX fills the picture.
        zoom = self.uniform(count, 0.9, 1.55)
        aspect = torch.exp(torch.randn(count, generator=self.generator) * 0.18 - 0.1)
        cos, sin = torch.cos(angle), torch.sin(angle)
        matrix = torch.zeros(count, 2, 3)
        matrix[:, 0, 0], matrix[:, 0, 1] = cos / (zoom * aspect), (shear - sin) / zoom
        matrix[:, 1, 0], matrix[:, 1, 1] = sin / (zoom * aspect), cos / zoom
        matrix[:, :, 2] = torch.randn(count, 2, generator=self.generator) * 0.05
        grid = F.affine_grid(matrix, [count, 1, CANVAS, CANVAS], align_corners=False)
        strength = self.uniform(count, 0.0, 0.1)[:, None, None, None]
        knots = torch.randn(count, 2, 5, 5, generator=self.generator) * strength
        bend = F.interpolate(knots, (CANVAS, CANVAS), mode="bicubic", align_corners=True)
        facts[:, INDEX["slanted"]] |= shear > 0.25
        for name, holds in (
            ("wide", aspect > 1.05),
            ("narrow", aspect < 0.78),
            ("left", angle > 0.12),
            ("right", angle < -0.12),
            ("large", zoom > 1.35),
            ("small", zoom < 1.05),
            ("bent", strength.flatten() > 0.07),
        ):
            facts[:, INDEX[name]] = holds
        return F.grid_sample(ink, grid + bend.permute(0, 2, 3, 1), align_corners=False)

    def soften(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Blur some, and make others hard-edged as a fax does."""
        hard, soft = self.chance(len(ink), 0.3), self.chance(len(ink), 0.2)
        ink = ink.clone()
        ink[hard] = (ink[hard] > 0.4).float()
        for _ in range(2):
            ink[soft] = F.avg_pool2d(ink[soft], 5, 1, 2)
        facts[:, INDEX["blurry"]] |= soft
        facts[:, INDEX["sharp"]] |= hard & ~soft
        return ink

    def coarsen(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Average into few pixels and enlarge them again, as a thumbnail is."""
        pick = self.uniform(len(ink))
        image = F.adaptive_avg_pool2d(ink, self.size)
        for side, low, high in ((8, 0.0, 0.45), (12, 0.45, 0.55), (16, 0.55, 0.65)):
            rows = (pick >= low) & (pick < high)
            small = F.adaptive_avg_pool2d(ink[rows], side)
            image[rows] = F.interpolate(
                small, (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 1)
        facts[:, INDEX["coarse"]] |= pick < 0.55
        facts[:, INDEX["sharp"]] &= pick >= 0.65
        return image

    def expose(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Choose the ink, the paper and the noise; a tenth is white on black."""
        count = len(ink)
        shade = self.uniform(count, 0.6, 1.2).clamp(max=1.0)[:, None, None, None]
        gamma = torch.exp(torch.randn(count, generator=self.generator) * 0.25)
        ink = shade * ink ** gamma[:, None, None, None]
        noisy = self.chance(count, 0.15)
        noise = torch.where(noisy, self.uniform(count, 0.05, 0.15), self.uniform(count, 0.0, 0.02))
        image = 1.0 - ink
        image = (
            image
            * torch.where(self.chance(count, 0.5), 1.0, self.uniform(count, 0.75, 1.0))[
                :, None, None, None
            ]
        )
        image = image + noise[:, None, None, None] * torch.randn(
            image.shape, generator=self.generator
        )
        white = self.chance(count, 0.1)
        image[white] = 1.0 - image[white]
        facts[:, INDEX["noisy"]] |= noisy
        facts[:, INDEX["white"]] |= white
        facts[:, INDEX["pale"]] |= shade.flatten() < 0.75
        facts[:, INDEX["dark"]] |= ~white & (shade.flatten() > 0.98)
        return image.clamp(0, 1)
