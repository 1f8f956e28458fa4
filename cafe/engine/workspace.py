"""Buffers that a chunk reuses from step to step; knows nothing of their content."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from cafe.engine.kernels import Kernels


class Workspace:
    """Buffers that live as long as a chunk, so that no step allocates what the last one freed.

    Attributes
    ----------
    device : torch.device
        Where the buffers lie.
    product : torch.dtype
        Type of the operands of matrix products.
    wide : torch.dtype
        Type of reductions and gradients: float32, or float64 where products are.
    kernels : Kernels or None
        Fused passes to take where an architecture can.
    mirrors : dict of str to Tensor
        Copies of the weights in the type of products, which the optimiser keeps up to date.
    """

    def __init__(
        self, device: torch.device, product: torch.dtype, kernels: Kernels | None = None
    ) -> None:
        self.device = device
        self.product = product
        self.kernels = kernels
        self.mirrors: dict[str, Tensor] = {}
        self.wide = torch.promote_types(product, torch.float32)
        self._flat: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}

    def autocast(self) -> torch.autocast:
        """Under it, products of float32 tensors are taken in the type of products."""
        low = self.product != torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low)

    def __call__(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised tensor, `wide` by default; it aliases earlier ones of its name."""
        dtype = dtype or self.wide
        count = prod(shape)
        flat = self._flat.get(name)
        if flat is None or len(flat) < count or flat.dtype != dtype:
            flat = self._flat[name] = torch.empty(count, dtype=dtype, device=self.device)
        return flat[:count].view(shape)  # the last batch of an epoch is smaller and takes a part

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that stays the same over all steps, made when first asked for."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def cast(self, name: str, value: Tensor) -> Tensor:
        """A float32 tensor in the type of products: itself, its mirror, or a copy in a buffer."""
        if value.dtype == self.product:
            return value
        if name in self.mirrors:
            return self.mirrors[name]
        return self(name, *value.shape, dtype=self.product).copy_(value)

    def widened(self, name: str, value: Tensor) -> Tensor:
        """A tensor in the type of products as `wide`: itself, or a copy in a buffer."""
        return value if value.dtype == self.wide else self(name, *value.shape).copy_(value)

    def bmm_into(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """Batched product of two tensors in the type of products, into a float32 tensor."""
        if out.dtype == self.product:
            torch.bmm(a, b, out=out)
        else:
            # torch multiplies bfloat16 into bfloat16 only; the copy widens
            out.copy_(torch.bmm(a, b, out=self("bmm_into", *out.shape, dtype=self.product)))
