"""What an extraction is made from: a dataset under a name, and its sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cafe.datasets import load_dataset, read_class_names
from cafe.datasets.boxes.dataset import CONTEXT, BoxDataset
from cafe.datasets.boxes.load import load_boxes
from cafe.datasets.boxes.proposals import proposals_name
from cafe.datasets.dataset import Dataset
from cafe.datasets.prompts import fill, read_prompts
from cafe.encoders.encoder import Encoder
from cafe.encoders.spatial import grid_of
from cafe.errors import InputError, counted, verb


def load_named(
    dataset: Dataset | Path | str,
    template: str | Sequence[str] | None,
    class_names: Path | Sequence[str] | Mapping[str, str] | None,
    name: str | None,
    *,
    split_file: Path | str | None,
    data_root: Path | str | None,
    download: bool,
    allow_missing: bool,
    boxes: Path | str | None = None,
    context: Sequence[float] | None = None,
    proposals: Path | str | None = None,
    background: int | None = None,
) -> Dataset:
    """A dataset under a name, with its prompt templates.

    Parameters
    ----------
    dataset, template, class_names, name, split_file, data_root, download, allow_missing, boxes,
    context, proposals, background
        As for `cafe.Extractor.extract`.
    """
    listed = [template] if isinstance(template, str) else template
    templates = None if listed is None else tuple(listed)
    named = read_class_names(class_names) if isinstance(class_names, Path) else class_names
    for word, value in (("context", context), ("proposals", proposals)):
        if boxes is None and value is not None:
            raise InputError(f"{word} is of boxes; name their file with boxes=.")
    if proposals is None and background is not None:
        raise InputError("background is of proposals; name their file with proposals=.")
    if boxes is not None:
        if isinstance(dataset, Dataset) or split_file or data_root or download:
            raise InputError(
                "boxes= takes the folder of their images as dataset, and no split_file, data_root "
                "or download."
            )
        data: Dataset = load_boxes(
            Path(dataset),
            Path(boxes),
            templates=templates,
            context=CONTEXT if context is None else context,
            class_names=named,
            allow_missing=allow_missing,
            proposals=None if proposals is None else Path(proposals),
            background=background,
        )
    elif not isinstance(dataset, Dataset):
        data = load_dataset(
            str(dataset),
            templates=templates,
            class_names=named,
            split_file=None if split_file is None else Path(split_file),
            data_root=None if data_root is None else Path(data_root),
            download=download,
            allow_missing=allow_missing,
        )
    else:
        data = dataset if templates is None else dataset.with_templates(templates)
    return data if name is None else _renamed(data, name)


def _renamed(data: Dataset, name: str) -> Dataset:
    if isinstance(data, BoxDataset) and data.unlabelled is not None:
        pool = replace(data.unlabelled, name=proposals_name(name))
        data = replace(data, unlabelled=pool)
    return replace(data, name=name)


def sentences_of(dataset: Dataset, prompts: Path | str | None) -> list[list[str]]:
    """Prompts of every class: of a JSON file, else of the dataset's templates. (C, P)"""
    if prompts:
        return read_prompts(Path(prompts), dataset.class_names)
    return fill(dataset.words or dataset.class_names, dataset.templates)


def size_of_maps(dataset: Dataset, encoder: Encoder, spatial: int) -> str:
    """The line that says how large the spatial maps of a dataset become."""
    height, width = grid_of(encoder, spatial)
    images = sum(map(len, dataset.splits.values()))
    size = images * height * width * encoder.width * 2 / 1e6  # MB in float16
    return (
        f"{counted(images, 'map')} of {height} x {width} tokens {verb(images, 'take')} up to "
        f"{size:,.0f} MB, and as much again until the file is made."
    )
