"""What papers report on the eleven datasets of CoOp: facts with their sources; knows no code.

Top-1 accuracy in percent with OpenAI's weights. The count 0 stands for no training image at all
(zero-shot). "Validation" says what a paper chose its hyper-parameters on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

DATASETS = (
    "imagenet",
    "caltech101",
    "oxford_pets",
    "stanford_cars",
    "oxford_flowers",
    "food101",
    "fgvc_aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
"""The eleven datasets, by cafe's names."""


class Average(NamedTuple):
    """The average of a method over the eleven datasets.

    Attributes
    ----------
    method : str
        As its paper calls it.
    cafe : str or None
        The method of cafe that implements it.
    backbone : str
        Image encoder, as open_clip names it.
    accuracy : mapping of int to float
        Shots to percent.
    validation : str
        What hyper-parameters were chosen on.
    source : str
        Paper.
    prompts : str
        "CoOp" for the templates of `cafe.datasets.prompts`, else in words.
    """

    method: str
    cafe: str | None
    backbone: str
    accuracy: Mapping[int, float]
    validation: str
    source: str
    prompts: str = "CoOp"


SHOTS = (1, 2, 4, 8, 16)
_GDA = "Wang et al. 2024, arXiv 2402.04087"
_GPT3 = "written by GPT-3"


def _over_shots(*values: float) -> dict[int, float]:
    return dict(zip(SHOTS, values, strict=True))


AVERAGES = (
    Average(
        "zero-shot CLIP",
        "zero-shot",
        "RN50",
        {0: 58.89},
        "none",
        "Radford et al. 2021, arXiv 2103.00020, as CLIP-Adapter's log has it",
    ),
    Average(
        "CLIP-Adapter",
        "clip-adapter",
        "RN50",
        _over_shots(62.67, 65.55, 68.61, 71.40, 74.44),
        "not stated",
        "Gao et al. 2021, arXiv 2110.04544, the authors' published log",
    ),
    Average(
        "Tip-Adapter",
        "tip-adapter",
        "RN50",
        _over_shots(62.33, 64.62, 66.54, 68.50, 70.32),
        "full",
        "Zhang et al. 2022, arXiv 2111.03930",
    ),
    Average(
        "Tip-Adapter-F",
        "tip-adapter-f",
        "RN50",
        _over_shots(64.60, 66.65, 69.67, 72.45, 75.83),
        "full, and the epoch that is best on the test set",
        "Zhang et al. 2022, arXiv 2111.03930",
    ),
    Average("GDA", "gda", "RN50", _over_shots(62.19, 66.19, 69.77, 73.31, 76.05), "full", _GDA),
    Average(
        "CLAP",
        "clap",
        "RN50",
        _over_shots(62.79, 66.07, 69.13, 72.08, 74.57),
        "none",
        "Silva-Rodriguez et al. 2024, arXiv 2312.12730",
    ),
    Average(
        "TIMO-S",
        None,
        "RN50",
        _over_shots(66.80, 68.73, 71.60, 74.20, 76.83),
        "full",
        "Li et al. 2025, arXiv 2412.11375",
        _GPT3,
    ),
    Average(
        "APE-T",
        None,
        "RN50",
        _over_shots(67.23, 69.43, 72.25, 74.47, 77.28),
        "full",
        "Zhu et al. 2023, arXiv 2304.01195",
        _GPT3,
    ),
    Average("GDA", "gda", "ViT-B-32", {16: 78.06}, "full", _GDA),
    Average("GDA", "gda", "ViT-B-16", {16: 81.85}, "full", _GDA),
)
"""Averages over the eleven datasets."""

CLIP_ADAPTER_RN50: Mapping[str, tuple[float, ...]] = {
    "imagenet": (60.32, 61.20, 61.52, 61.84, 62.68, 63.59),
    "sun397": (58.52, 61.30, 63.29, 65.96, 67.50, 69.55),
    "oxford_pets": (85.83, 85.99, 86.73, 87.46, 87.65, 87.84),
    "eurosat": (37.52, 61.40, 63.90, 73.38, 77.93, 84.43),
    "caltech101": (85.92, 88.60, 89.37, 89.98, 91.40, 92.49),
    "dtd": (42.20, 45.80, 51.48, 56.86, 61.00, 65.96),
    "fgvc_aircraft": (17.10, 17.49, 20.10, 22.59, 26.25, 32.10),
    "food101": (77.32, 76.82, 77.22, 77.92, 78.04, 78.25),
    "oxford_flowers": (66.02, 73.49, 81.61, 87.17, 91.72, 93.90),
    "ucf101": (61.35, 62.20, 67.12, 69.05, 73.30, 76.76),
    "stanford_cars": (55.74, 55.13, 58.74, 62.45, 67.89, 74.01),
}
"""CLIP-Adapter with RN50 at 0, 1, 2, 4, 8 and 16 shots: the authors' published log."""


def backbone(model: str) -> str:
    """The image encoder that a model of open_clip is, its activation left aside."""
    return model.removesuffix("-quickgelu")


def averages(model: str) -> list[Average]:
    """The published averages of an encoder."""
    return [row for row in AVERAGES if row.backbone == backbone(model)]


def per_dataset(dataset: str, model: str) -> dict[str, dict[int, float]]:
    """Published accuracies on one dataset: method of cafe -> shots -> percent; may be empty."""
    if backbone(model) != "RN50" or dataset not in CLIP_ADAPTER_RN50:
        return {}
    zero, *rest = CLIP_ADAPTER_RN50[dataset]
    return {"zero-shot": {0: zero}, "clip-adapter": _over_shots(*rest)}


def partial_averages(datasets: Iterable[str], model: str) -> dict[str, dict[int, float]]:
    """Published accuracies averaged over some of the datasets: method -> shots -> percent.

    Only methods whose accuracy on each of them is published; all eleven give `AVERAGES` again.
    """
    rows = [per_dataset(name, model) for name in datasets]
    if not rows or not all(rows):
        return {}
    return {
        method: {shots: sum(r[method][shots] for r in rows) / len(rows) for shots in found}
        for method, found in rows[0].items()
    }


def published_beside(present: Sequence[str], model: str) -> list[dict[str, Any]]:
    """Published numbers on the same datasets where there are such, else the averages of all.

    Parameters
    ----------
    present : sequence of str
        Which of the eleven datasets our numbers are the average of.
    model : str
        The encoder.

    Returns
    -------
    list of dict
        An `Average` each as JSON values, and `over`: the datasets that it is the average of.
    """
    same = partial_averages(present, model) if len(present) < len(DATASETS) else {}
    rows = []
    for row in averages(model):
        shots: Mapping[int, float] = same.get(row.cafe or "", row.accuracy)
        over = list(present) if row.cafe in same else list(DATASETS)
        values = {str(count): round(value, 2) for count, value in shots.items()}
        rows.append({**row._asdict(), "accuracy": values, "over": over})
    return rows
