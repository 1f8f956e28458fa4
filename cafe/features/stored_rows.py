"""Arrays of images that stay on the disk until they are asked for; knows no encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class StoredRows:
    """Rows of an array that stay where they are until they are asked for.

    They are the spatial maps of images, or their features before the projection.

    Parameters
    ----------
    read : callable
        Row numbers (n,) -> float32. (n, T, D)
    rows : Tensor
        Row numbers of these images. (N,)
    count : int
        T, tokens of a map, or views.
    device : torch.device or str
        Where the rows go that are read.
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
    def of(cls, maps: Tensor) -> StoredRows:
        """Arrays that are in memory already. (N, T, D)"""
        rows = torch.arange(len(maps))
        return cls(lambda r: maps[r.to(maps.device)], rows, maps.shape[1], maps.device)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor) -> StoredRows:
        return StoredRows(self._read, self._rows[rows.cpu()], self.count, self._device)

    def to(self, device: torch.device | str) -> StoredRows:
        """The same, on another device once they are read."""
        return StoredRows(self._read, self._rows, self.count, device)

    def tensor(self) -> Tensor:
        """The arrays themselves, read now. (N, T, D)"""
        return self._read(self._rows).to(self._device)


@dataclass(frozen=True)
class PreProjection:
    """Features before the image tower's last projection, `x = h W + b`, and that projection.

    Attributes
    ----------
    rows : StoredRows
        h of every view, read when asked for. (N, V, E)
    weight : Tensor
        W. (E, D)
    bias : Tensor
        b. (D,)
    """

    rows: StoredRows
    weight: Tensor
    bias: Tensor

    def __getitem__(self, rows: Tensor) -> PreProjection:
        return PreProjection(self.rows[rows], self.weight, self.bias)

    def to(self, device: torch.device | str) -> PreProjection:
        """The same on another device."""
        return PreProjection(self.rows.to(device), self.weight.to(device), self.bias.to(device))
