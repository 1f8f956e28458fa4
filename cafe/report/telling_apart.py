"""What tells the runs of one page apart: data, encoder, protocol, settings, at last the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cafe.errors import counted
from cafe.report.report_data import ReportData

_MOST_NAMES = 3  # methods that are named; of more the number is told


def facts(run: ReportData) -> dict[str, str]:
    """What a run is, fact by fact, the most telling first."""
    protocol, methods = run.record.protocol, run.methods
    named = ", ".join(methods) if len(methods) <= _MOST_NAMES else counted(len(methods), "method")
    settings = {
        f"{result.method}: {name}": f"{result.method} {name} {value}"
        for result in run.results.values()
        for name, value in result.params.items()
        if result.shots == run.focus[1] and isinstance(value, int | float | str)
    }
    return {
        "dataset": run.name,
        "encoder": run.record.encoder.name,
        "kind": run.kind,
        "shots": f"{', '.join(map(str, run.shots))} shots",
        "validation": f"validation {protocol.validation}",
        "methods": named,
        "seeds": counted(len(protocol.seeds), "seed"),
        **settings,
        "precision": run.record.precision or "",
        "made": run.record.created,
        "folder": run.folder.name,
        "path": str(run.folder),
    }


def differing(runs: Sequence[ReportData]) -> dict[str, list[str]]:
    """The facts that are not the same in all runs -> their value in each run, "" for none."""
    known = [facts(run) for run in runs]
    names = dict.fromkeys(name for one in known for name in one)
    values = {name: [one.get(name, "") for one in known] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def titles(runs: Sequence[ReportData]) -> list[str]:
    """A title for each run: of what differs, as much as tells all of them apart."""
    if len(runs) == 1:
        return [runs[0].title]
    parts: list[list[str]] = [[] for _ in runs]
    for values in differing(runs).values():
        if len(set(map(tuple, parts))) == len(runs):
            break
        for own, value in zip(parts, values, strict=True):
            own.append(value)
    return [", ".join(filter(None, own)) or run.title for own, run in zip(parts, runs, strict=True)]


def overview(runs: Sequence[ReportData], most: int = 4) -> Mapping[str, list[str]]:
    """The first differing facts as columns of a table; the titles have what tells them apart."""
    told = {name: each for name, each in differing(runs).items() if name not in ("folder", "path")}
    return dict(list(told.items())[:most])
