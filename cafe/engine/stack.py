"""Tensors of runs side by side: stacked parameters, scalars to broadcast, images in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cafe.engine.architecture import Architecture, Batch, Run
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
    architecture: Architecture, trains: Sequence[TrainingSet], device: torch.device
) -> dict[str, Tensor]:
    """What the architecture needs of each stream's training set. (S, 1, ...)"""
    constants = [architecture.constants(train) for train in trains]
    return {n: torch.stack([c[n] for c in constants])[:, None].to(device) for n in constants[0]}


class BatchLoader:
    """The batches of S streams, epoch by epoch.

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

    Attributes
    ----------
    images : int
        N, images of a training set.
    steps : int
        Batches in an epoch.
    """

    def __init__(
        self,
        leaders: Sequence[Run],
        training_sets: Sequence[TrainingSet],
        scalars: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        self._architecture, recipe = leaders[0].architecture, leaders[0].recipe
        self._batch_size, self._device, self._scalars = recipe.batch_size, device, scalars
        trains = [training_sets[run.data] for run in leaders]
        self._text = trains[0].text.to(device)  # equal for all streams of a chunk
        self._constants = stack_constants(self._architecture, trains, device)

        # streams that share a training set (other seeds) share its rows in the table
        distinct = list({id(train): train for train in trains}.values())
        examples = [self._architecture.examples(train).to(device) for train in distinct]
        self._sets = [flatten_views(set_) if recipe.views else set_ for set_ in examples]
        self.images, rows = len(examples[0]), len(self._sets[0])
        self.steps = -(-self.images // self._batch_size)
        self._per_batch = makes_rows_per_batch(rows, self._sets[0].x.shape[-1], self._architecture)
        tables = [{"y": set_.y, **self._kept(set_)} for set_ in self._sets]
        self._table = tables[0]  # of one set as it is: concatenating would copy it
        if len(tables) > 1:
            self._table = {name: torch.cat([t[name] for t in tables]) for name in tables[0]}

        self._orders = [BatchOrder(run.seed, self.images, rows // self.images) for run in leaders]
        start = {id(train): number * rows for number, train in enumerate(distinct)}
        starts = [[start[id(train)]] for train in trains]
        self._starts = torch.tensor(starts, device=device)  # (S, 1)

    def _kept(self, features: Features) -> dict[str, Tensor]:
        """What the table keeps of each image: its rows, or the feature that they are made of."""
        if self._per_batch:
            return {"x": features.x}  # maps stay on disk; see `_inputs`
        return self._rows(features.inputs(spatial=self._architecture.spatial))

    def _rows(self, x: Tensor) -> dict[str, Tensor]:
        """What the architecture needs of raw features (..., D), or with maps (..., 1 + T, D)."""
        lead = x.shape[: x.ndim - (2 if self._architecture.spatial else 1)]
        rows = self._architecture.rows(x.flatten(0, len(lead) - 1).float(), self._text)
        return {n: value.view(*lead, *value.shape[1:]) for n, value in rows.items()}

    def _inputs(self, x: Tensor, chosen: Tensor) -> Tensor:
        """The features of a batch (S, B, D), or with maps, read now (S, B, 1 + T, D)."""
        if not self._architecture.spatial:
            return x
        rows = len(self._sets[0])
        drawn = [self._sets[int(some[0]) // rows][some % rows] for some in chosen]
        return torch.stack([features.inputs(spatial=True) for features in drawn])

    def epoch(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        order = torch.stack([order.epoch() for order in self._orders])  # (S, N)
        for number in torch.split(order.to(self._device), self._batch_size, dim=1):  # (S, B)
            chosen = number + self._starts
            rows = {
                name: table.index_select(0, chosen.flatten()).view(*chosen.shape, *table.shape[1:])
                for name, table in self._table.items()
            }
            rows["number"] = number
            if self._per_batch:
                rows |= self._rows(self._inputs(rows.pop("x"), chosen))
            yield make_batch(rows, self._scalars, self._constants, self._text)


def makes_rows_per_batch(images: int, width: int, architecture: Architecture) -> bool:
    """Whether rows are made batch by batch: made once, they would be a copy of all images."""
    return images * architecture.row_numbers(width) > LARGE


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
