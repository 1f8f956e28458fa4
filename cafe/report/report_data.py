"""One run as a page shows it: its record and, where there are such, its grid and its analysis."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cafe.errors import counted
from cafe.features.pool import INDUCTIVE
from cafe.features.splits import Shots
from cafe.report.analysis import Analysis
from cafe.report.confusions import ConfusionMap
from cafe.report.heat_maps import HeatMap
from cafe.report.ranking import Standing, ranking
from cafe.results.record import Record
from cafe.results.result import Result, by_learning
from cafe.store.key import noun_of

Row = Mapping[str, Any]
Key = tuple[str, Shots]
"""A method and a shot count."""

_KINDS = {
    "compare": "comparison",
    "base-to-new": "base to new",
    "compare-average": "comparison",
    "base-to-new-average": "base to new",
}


@dataclass(frozen=True)
class ReportData:
    """One run, read back.

    Attributes
    ----------
    folder : Path
    record : Record
    results : mapping of (method, shots) to Result
        The record's, with what `page.json` says of each.
    class_names : list of str
    heat_maps : list of HeatMap
        One per shot count of a grid, else empty.
    focus : (method, shots)
        What the page looks into: per class, confusions, calibration, map.
    focus_in_words : str
        Which head that is, and what is known of it.
    had_choice : bool
        Whether the run has other methods and none was asked for.
    predicts : Result or None
        Whose head `cafe predict` takes, chosen on held-out images, where the run has such.
    published : list of mapping
        Published numbers on the same data, where there are such.
    confusions : ConfusionMap or None
    analysis : Analysis or None
        What the cached features show, where they are at hand.
    notes : list of str
        What is not shown, and why.
    """

    folder: Path
    record: Record
    results: Mapping[Key, Result]
    class_names: Sequence[str]
    heat_maps: Sequence[HeatMap]
    focus: Key
    focus_in_words: str
    had_choice: bool
    published: Sequence[Row]
    predicts: Result | None = None
    confusions: ConfusionMap | None = None
    analysis: Analysis | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def noun(self) -> str:
        """What its items are: "image", or "box"."""
        return noun_of(self.record.cache_key)

    @property
    def name(self) -> str:
        """The dataset, or of how many caches this is the average."""
        names = self.record.datasets
        return (
            self.record.dataset if names is None else f"average of {counted(len(names), 'cache')}"
        )

    @property
    def title(self) -> str:
        """Dataset, encoder and kind of the run."""
        return f"{self.name}, {self.record.encoder.name} ({self.kind})"

    @property
    def kind(self) -> str:
        """What made it, in a word."""
        return "grid" if self.heat_maps else _KINDS.get(self.record.kind or "", "fit")

    @property
    def shots(self) -> list[Shots]:
        """Shot counts in the order of the record."""
        return list(dict.fromkeys(shots for _, shots in self.results))

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the record."""
        return list(dict.fromkeys(method for method, _ in self.results))

    @property
    def comparable(self) -> list[Row]:
        """Published numbers over the very datasets of this run."""
        names = set(self.record.datasets or [self.record.dataset])
        return [row for row in self.published if set(row["over"]) == names]

    @property
    def cells(self) -> dict[str, list[dict[str, Any]]]:
        """The runs of every cell of the heat maps, for the page's script."""
        return {
            heat_map.key(*cell): list(map(dict, runs))
            for heat_map in self.heat_maps
            for cell, runs in heat_map.cells.items()
        }

    @property
    def measured(self) -> list[Result]:
        """Results at the shot count in focus that have metrics beyond top-1, the best first."""
        return [result for part in self.standings for result in part.results if result.metrics]

    @property
    def published_shots(self) -> list[int]:
        """Shot counts of the published numbers; 0 is zero-shot."""
        return sorted({int(count) for row in self.published for count in row["accuracy"]})

    @property
    def standings(self) -> list[Standing]:
        """The ranking at the shot count in focus."""
        return ranking(self.results.values(), self.focus[1])

    @property
    def ranked(self) -> list[str]:
        """Methods, the best at the shot count in focus first; last those that have none there."""
        first = [result.method for part in self.standings for result in part.results]
        return list(dict.fromkeys([*first, *self.methods]))

    def best(self, shots: Shots) -> Result:
        """The best result at a shot count; see `ranking`."""
        return ranking(self.results.values(), shots)[0].results[0]

    def leaders(self, shots: Shots) -> list[Result]:
        """The best result of each group at a shot count."""
        return [part.results[0] for part in ranking(self.results.values(), shots)]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Methods that compete, the best first, under the words of what they saw."""
        groups = by_learning(self.results.values())
        first = sorted(groups, key=lambda words: words != INDUCTIVE)
        own = {words: {result.method for result in groups[words]} for words in first}
        return {words: [m for m in self.ranked if m in own[words]] for words in first}

    def seconds(self, method: str) -> float:
        """Time that all fits of a method took."""
        return sum(r.seconds for (name, _), r in self.results.items() if name == method)

    @property
    def gains(self) -> list[tuple[str, float]]:
        """Points that the method in focus gains over zero-shot by class, the largest first."""
        method, shots = self.focus
        zero_shot = self.results.get(("zero-shot", shots))
        after = self.results[self.focus].page.get("per_class")
        before = zero_shot.page.get("per_class") if zero_shot else None
        if not after or not before or method == "zero-shot":
            return []
        triples = zip(self.class_names, after, before, strict=True)
        gains = [(name, a - b) for name, a, b in triples if a is not None and b is not None]
        return sorted(gains, key=lambda pair: -pair[1])

    @property
    def reliability(self) -> Mapping[str, Any]:
        """Reliability bins of the method in focus: the analysis', else those of the run."""
        if self.analysis:
            return self.analysis.reliability
        bins = self.results[self.focus].page.get("reliability")
        return {"before": bins} if bins else {}

    @property
    def provenance(self) -> dict[str, str]:
        """Cache, encoder and versions, one entry per line of the page."""
        record = self.record
        caches = record.cache if isinstance(record.cache, str) else ", ".join(record.cache)
        encoder = {f"encoder {part}": text for part, text in asdict(record.encoder).items() if text}
        versions = {f"version of {name}": text for name, text in record.versions.items()}
        versions |= {f"fitted with {name}": text for name, text in record.fitted_with.items()}
        key = {f"key: {part}": json.dumps(value) for part, value in record.cache_key.items()}
        about = {"cache": caches, "made": record.created}
        return {**about, **encoder, **versions, **key}

    @property
    def command(self) -> str:
        """The command that gives these numbers: the recorded one, or one that does the same."""
        record, protocol = self.record, self.record.protocol
        if record.command:
            return record.command
        shots = protocol.shots if isinstance(protocol.shots, tuple) else [protocol.shots]
        caches = record.cache if isinstance(record.cache, tuple) else [record.cache]
        words = ["cafe", "compare", *caches, "--method", ",".join(self.methods)]
        words += ["--shots", ",".join(map(str, shots))]
        words += ["--seeds", ",".join(map(str, protocol.seeds))]
        words += ["--validation", protocol.validation]
        words += ["--base-to-new"] if record.base_to_new else []
        return shlex.join(words)
