"""One run as a page shows it: its record and, where there are such, its grid and its analysis."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cafe.report.analysis import Analysis
from cafe.report.heat_map import HeatMap

Row = Mapping[str, Any]

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
    record : mapping
        `record.json`.
    results : mapping of (method, shots) to mapping
        Rows of the record, with what `page.json` says of each under "page".
    class_names : list of str
    heat_maps : list of HeatMap
        One per shot count of a grid, else empty.
    focus : (method, shots)
        What the page looks into: per class, confusions, calibration, map.
    published : list of mapping
        Published numbers on the same data, where there are such.
    analysis : Analysis or None
        What the cached features show, where they are at hand.
    notes : list of str
        What is not shown, and why.
    """

    folder: Path
    record: Row
    results: Mapping[tuple[str, Any], Row]
    class_names: Sequence[str]
    heat_maps: Sequence[HeatMap]
    focus: tuple[str, Any]
    published: Sequence[Row]
    analysis: Analysis | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The dataset, or of how many caches this is the average."""
        names = self.record.get("datasets")
        return str(self.record["dataset"]) if names is None else f"average of {len(names)} caches"

    @property
    def encoder(self) -> str:
        """`model.pretrained`."""
        encoder = self.record["encoder"]
        return f"{encoder['model']}.{encoder['pretrained']}"

    @property
    def title(self) -> str:
        """Dataset, encoder and kind of the run."""
        kind = "grid" if self.heat_maps else _KINDS.get(self.record.get("kind", ""), "fit")
        return f"{self.name}, {self.encoder} ({kind})"

    @property
    def shots(self) -> list[Any]:
        """Shot counts in the order of the record."""
        return list(dict.fromkeys(shots for _, shots in self.results))

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the record."""
        return list(dict.fromkeys(method for method, _ in self.results))

    @property
    def comparable(self) -> list[Row]:
        """Published numbers over the very datasets of this run."""
        names = set(self.record.get("datasets", [self.record["dataset"]]))
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
    def measured(self) -> list[Row]:
        """Results at the shot count in focus that have metrics beyond top-1."""
        return [
            result
            for (_, shots), result in self.results.items()
            if shots == self.focus[1] and result.get("metrics")
        ]

    @property
    def published_shots(self) -> list[int]:
        """Shot counts of the published numbers; 0 is zero-shot."""
        return sorted({int(count) for row in self.published for count in row["accuracy"]})

    def best(self, shots: Any) -> Row:
        """The result with the highest mean accuracy at a shot count."""
        results = [result for (_, count), result in self.results.items() if count == shots]
        return max(results, key=lambda result: float(result["accuracy"]["mean"]))

    def seconds(self, method: str) -> float:
        """Time that all fits of a method took."""
        return float(sum(r["seconds"] for (name, _), r in self.results.items() if name == method))

    @property
    def gains(self) -> list[tuple[str, float]]:
        """Points that the method in focus gains over zero-shot by class, the largest first."""
        method, shots = self.focus
        after = self.results[self.focus]["page"].get("per_class")
        before = self.results.get(("zero-shot", shots), {}).get("page", {}).get("per_class")
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
        bins = self.results[self.focus]["page"].get("reliability")
        return {"before": bins} if bins else {}

    @property
    def provenance(self) -> dict[str, Any]:
        """Cache, encoder and versions, one entry per line of the page."""
        record = self.record
        encoder = {f"encoder {part}": value for part, value in record["encoder"].items()}
        versions = {f"version of {name}": text for name, text in record.get("versions", {}).items()}
        key = {f"key: {k}": json.dumps(value) for k, value in record.get("cache_key", {}).items()}
        about = {"cache": record["cache"], "made": record["created"]}
        return {**about, **encoder, **versions, **key}

    @property
    def command(self) -> str:
        """The command that gives these numbers: the recorded one, or one that does the same."""
        record, protocol = self.record, self.record["protocol"]
        if record.get("command"):
            return str(record["command"])
        shots = protocol["shots"] if isinstance(protocol["shots"], list) else [protocol["shots"]]
        caches = record["cache"] if isinstance(record["cache"], list) else [record["cache"]]
        words = ["cafe", "compare", *caches, "--methods", ",".join(self.methods)]
        words += ["--shots", ",".join(map(str, shots))]
        words += ["--seeds", ",".join(map(str, protocol["seeds"]))]
        words += ["--validation", protocol["validation"]]
        words += ["--base-to-new"] if "base_to_new" in record else []
        return shlex.join(words)
