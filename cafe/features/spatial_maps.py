"""Spatial maps of images, read block by block when they are asked for; knows no file."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class SpatialMaps:
    """Spatial maps of images, which stay where they are until some are asked for.

    Parameters
    ----------
    read : callable
        Row numbers (n,) -> maps of T projected tokens, float32. (n, T, D)
    rows : Tensor
        Row numbers of these images. (N,)
    count : int
        T.
    device : torch.device or str
        Where maps go that are read.
    """

    def __init__(
        self,
        read: Callable[[Tensor], Tensor],
        rows: Tensor,
        count: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._read, self._rows, self._device = read, rows.cpu(), device
        self.count = count

    @classmethod
    def of(cls, maps: Tensor) -> SpatialMaps:
        """Maps that are in memory already. (N, T, D)"""
        images, count, _ = maps.shape
        return cls(
            lambda rows: maps[rows.to(maps.device)], torch.arange(images), count, maps.device
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor) -> SpatialMaps:
        return SpatialMaps(self._read, self._rows[rows.cpu()], self.count, self._device)

    def to(self, device: torch.device | str) -> SpatialMaps:
        """The same maps, on another device once they are read."""
        return SpatialMaps(self._read, self._rows, self.count, device)

    def tensor(self) -> Tensor:
        """The maps themselves, read now. (N, T, D)"""
        return self._read(self._rows).to(self._device)
