"""What a run holds beside its record: what a page shows of its results, and the runs of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from cafe.results.typed_json import (
    ClassName,
    Count,
    Index,
    Name,
    NotNegative,
    Percent,
    from_json,
    read_text,
)

PAGE, GRID_ROWS = "page.json", "grid.jsonl"


class Confusion(TypedDict):
    """Two classes that are confused: images per seed, share of the class in percent, test rows."""

    label: Index
    predicted: Index
    images: NotNegative
    share: Percent
    rows: list[Index]


class Bin(TypedDict):
    """Images by their highest probability: how many, mean confidence and accuracy in percent."""

    images: NotNegative
    confidence: Percent
    accuracy: Percent


class ResultPage(TypedDict, total=False):
    """What `cafe report` shows of a result beyond its record."""

    per_class: list[Percent | None]
    confusions: list[Confusion]
    reliability: list[Bin]


class PageRow(ResultPage):
    """The same with the result that it is of, as `page.json` holds it."""

    method: Name
    shots: Count


@dataclass(frozen=True)
class Page:
    """`page.json`."""

    class_names: tuple[ClassName, ...] = ()
    results: tuple[PageRow, ...] = ()

    def __post_init__(self) -> None:
        names, classes = self.class_names, len(self.class_names)
        for row in self.results:
            pairs = row.get("confusions", ())
            labels = [label for pair in pairs for label in (pair["label"], pair["predicted"])]
            if max(labels, default=-1) >= classes or len(row.get("per_class", names)) != classes:
                raise ValueError(f"{row['method']} does not have the {classes} classes of the page")


class GridRow(TypedDict):
    """One run of a grid; `test` is None but for the chosen configurations."""

    shots: Count
    seed: Index
    ratio: NotNegative
    bottleneck: str
    lr: NotNegative
    val: Percent
    val_nll: float
    test: Percent | None


def read_page(folder: Path) -> Page:
    """Read what a page shows of a run beyond its record; empty for runs that do not have it."""
    path = folder / PAGE
    return from_json(Page, read_text(path), path) if path.is_file() else Page()


def read_grid_rows(folder: Path) -> list[GridRow]:
    """Read the runs of a grid; empty where the run is no grid."""
    path = folder / GRID_ROWS
    lines = read_text(path).splitlines() if path.is_file() else []
    return [from_json(GridRow, line, path) for line in lines]
