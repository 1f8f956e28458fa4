"""Tensors of runs side by side: stacked parameters, scalars to broadcast, images in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cafe.engine.contract import Batch, Family, Run
from cafe.engine.draws import BatchOrder
from cafe.features.tensors import LARGE, ClassText, Features, TrainingSet


def stack_tensors(
    tensors: Sequence[Mapping[str, Tensor]], streams: int, device: torch.device
) -> dict[str, Tensor]:
    """Tensors of R = S * M runs, name by name, side by side. (S, M, ...)"""
    stacked = {name: torch.stack([t[name] for t in tensors]).to(device) for name in tensors[0]}
    return {name: value.view(streams, -1, *value.shape[1:]) for name, value in stacked.items()}


def stack_scalars(runs: Sequence[Run], streams: int, device: torch.device) -> dict[str, Tensor]:
    """Scalars of R = S * M runs, ready to broadcast. (S, M, 1, 1)"""
    columns = {name: [run.scalars[name] for run in runs] for name in runs[0].scalars}
    return {
        name: torch.tensor(column, dtype=torch.float32, device=device).view(streams, -1, 1, 1)
        for name, column in columns.items()
    }


def stack_constants(
    family: Family, trains: Sequence[TrainingSet], device: torch.device
) -> dict[str, Tensor]:
    """What the family needs of each stream's training set. (S, 1, ...)"""
    constants = [family.constants(train) for train in trains]
    return {n: torch.stack([c[n] for c in constants])[:, None].to(device) for n in constants[0]}


class Streams:
    """The images of S streams, and their batches epoch by epoch.

    Parameters
    ----------
    leaders : sequence of Run
        One run of each stream; the others differ from it in scalars and step sizes only. (S,)
    training_sets : sequence of TrainingSet
        What `Run.data` points into.
    scalars : mapping of str to Tensor
        Scalars of all runs. (S, M, 1, 1)
    device : torch.device
        Where the batches go.
    """

    def __init__(
        self,
        leaders: Sequence[Run],
        training_sets: Sequence[TrainingSet],
        scalars: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        self._family, self._recipe = leaders[0].family, leaders[0].recipe
        self._device, self._scalars = device, scalars
        self._text = training_sets[leaders[0].data].text.to(device)
        trains = [training_sets[run.data] for run in leaders]
        self._constants = stack_constants(self._family, trains, device)
        self._table = self._concatenate([run.data for run in leaders], training_sets)
        self._orders = [BatchOrder(run.seed, self.images, self.views) for run in leaders]
        self._offsets = torch.tensor([[self._starts[run.data]] for run in leaders])  # (S, 1)

    def _concatenate(
        self, numbers: Sequence[int], training_sets: Sequence[TrainingSet]
    ) -> dict[str, Tensor]:
        """Rows of all training sets under one another, each set once."""
        distinct = list({id(training_sets[n]): training_sets[n] for n in numbers}.values())
        sets = [self._family.examples(train).to(self._device) for train in distinct]
        self.images = len(sets[0])
        flat = [flatten_views(features) if self._recipe.views else features for features in sets]
        self.views = len(flat[0]) // self.images
        place = {id(train): i * len(flat[0]) for i, train in enumerate(distinct)}
        self._starts = {n: place[id(training_sets[n])] for n in numbers}
        self._sets = flat
        self._late = rows_come_late(flat[0], self._family)
        tables = [{"y": f.y, **self._early(f)} for f in flat]
        if len(tables) == 1:
            return tables[0]
        return {name: torch.cat([table[name] for table in tables]) for name in tables[0]}

    def _early(self, features: Features) -> dict[str, Tensor]:
        """The rows of a set; of a large one what they are made of, but for maps."""
        if self._late:
            return {"x": features.x}
        return self._rows(features.inputs(spatial=self._family.spatial))

    def _rows(self, x: Tensor) -> dict[str, Tensor]:
        """What the family needs of raw features (..., D), or with maps (..., 1 + T, D)."""
        lead = x.ndim - (2 if self._family.spatial else 1)
        rows = self._family.rows(x.flatten(0, lead - 1).float(), self._text)
        return {n: value.view(*x.shape[:lead], *value.shape[1:]) for n, value in rows.items()}

    def _inputs(self, x: Tensor, chosen: Tensor) -> Tensor:
        """The features of a batch (S, B, D), or with maps, read now (S, B, 1 + T, D)."""
        if not self._family.spatial:
            return x
        rows = len(self._sets[0])
        drawn = [self._sets[int(some[0]) // rows][some % rows] for some in chosen]
        return torch.stack([features.inputs(spatial=True) for features in drawn])

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-self.images // self._recipe.batch_size)

    def epoch(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        order = torch.stack([order.epoch() for order in self._orders]) + self._offsets  # (S, N)
        for chosen in torch.split(order.to(self._device), self._recipe.batch_size, dim=1):
            rows = {
                name: table.index_select(0, chosen.flatten()).view(*chosen.shape, *table.shape[1:])
                for name, table in self._table.items()
            }
            if self._late:
                rows |= self._rows(self._inputs(rows.pop("x"), chosen))
            yield make_batch(rows, self._scalars, self._constants, self._text)


def rows_come_late(features: Features, family: Family) -> bool:
    """Whether a family's rows are made batch by batch: made once, they are a copy of all images."""
    return len(features) * family.row_numbers(features.x.shape[-1]) > LARGE


def make_batch(
    rows: dict[str, Tensor],
    scalars: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    text: ClassText,
) -> Batch:
    """Join what a step sees; `rows` holds the class indices under "y"."""
    y = rows.pop("y")
    return Batch(rows, y, scalars, constants, text.weights, text.logit_scale, text.logit_bias)


def flatten_views(features: Features) -> Features:
    """Each view as an image of its own, the views of an image next to each other. (N * V, D)"""
    if features.views is None:
        return features
    views = features.views.shape[1]
    return Features(features.views.flatten(0, 1), features.y.repeat_interleave(views))
