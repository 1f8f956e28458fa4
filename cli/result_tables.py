"""Tables of what was measured: methods over shot counts, the grid's choice, published numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from cafe.errors import counted

from .output import can_show, note, print_csv, print_table, say

if TYPE_CHECKING:
    from cafe.features.splits import Shots
    from cafe.report.reproduction import Reproduction
    from cafe.results.leaderboard import Place
    from cafe.results.metrics import Summary
    from cafe.results.record import Record
    from cafe.results.result import ChosenConfiguration, Difference, Result
    from cafe.store import FeatureCache

_SHOWN_PARAMS = ("ratio", "text_ratio", "bottleneck", "epochs", "alpha", "beta")
_LEVELS = "▁▂▃▄▅▆▇█"


def format_accuracy(accuracy: Summary, sign: str = "") -> str:
    """`83.1 ± 0.9`, or the mean alone where there is one seed."""
    half = "" if accuracy.ci95 is None else f" ± {accuracy.ci95:.2f}"
    return f"{accuracy.mean:{sign}.2f}{half}"


def _interval(accuracy: Summary) -> str:
    """`95 %, 3 seeds`: what stands behind a sign of plus or minus."""
    seeds = counted(len(accuracy.per_seed), "seed")
    return seeds if accuracy.ci95 is None else f"95 %, {seeds}"


def print_protocol(record: Record, parts: Sequence[Record] = (), *, verbose: bool = False) -> None:
    """Print the protocol in a line, and where the data come from; or all of it.

    Parameters
    ----------
    record : Record
    parts : sequence of Record
        Of an average: the records that it is over.
    verbose : bool
    """
    if verbose:
        say("", record.protocol.words)
        return
    say("", f"{record.protocol.brief} (--verbose tells more.)")
    parts = parts or [record]
    for part in parts:
        if part.source:
            say(f"{'Data' if len(parts) == 1 else f'Data of {part.dataset}'}: {part.source}.")


def print_results(record: Record) -> None:
    """Print what a run measured, over its shot counts where it has several."""
    one_count = len({result.shots for result in record.results}) == 1
    for results in _each_kind(record.results):
        if one_count:
            _print_one_shot_count(results)
        else:
            print_over_shots(results)


def _each_kind(results: Sequence[Result]) -> Iterator[Sequence[Result]]:
    """The results that may be ranked together; of several kinds, each under its words."""
    from cafe.results.result import by_learning

    groups = by_learning(results)
    for place, (words, some) in enumerate(groups.items()):
        if len(groups) > 1 or words != "inductive":
            say(*[""] * bool(place), words)
        yield some


def _print_one_shot_count(results: Sequence[Result]) -> None:
    """One row per method, with its hyper-parameters and time."""
    rows = []
    for result in results:
        params = result.params.items()
        brief = ", ".join(f"{name} {value}" for name, value in params if name in _SHOWN_PARAMS)
        accuracy = format_accuracy(result.accuracy)
        std, seconds = f"{result.accuracy.std:.2f}", f"{result.seconds:.2f}"
        rows.append([result.method, accuracy, std, seconds, brief])
    headers = ["method", f"accuracy % ({_interval(results[0].accuracy)})", "std", "seconds", "with"]
    print_table(headers, rows, numbers=(1, 2, 3))


def print_over_shots(results: Sequence[Result], *, compared: bool = False) -> None:
    """One row per method, one column per shot count; on a terminal also the trend over shots.

    Parameters
    ----------
    results : sequence of Result
    compared : bool
        Set the best of each shot count in bold, and add the seconds of each method.
    """
    headers, table = _table_over_shots("accuracy %", results)
    means = {(r.method, r.shots): r.accuracy.mean for r in results}
    methods, shots = _axes(results)
    bold: set[tuple[int, int]] = set()
    if compared:
        best = {s: max(mean for (_, count), mean in means.items() if count == s) for s in shots}
        places = ((y, m, x, s) for y, m in enumerate(methods) for x, s in enumerate(shots, 1))
        bold = {(y, x) for y, m, x, s in places if means.get((m, s)) == best[s]}
        headers.append("seconds")
        for method, row in zip(methods, table, strict=True):
            row.append(f"{sum(r.seconds for r in results if r.method == method):.2f}")
    if sys.stdout.isatty() and len(shots) > 1 and can_show(_LEVELS):
        headers.append("trend")
        for method, row in zip(methods, table, strict=True):
            row.append(_trend([means.get((method, s)) for s in shots], means.values()))
    print_table(headers, table, numbers=range(1, len(headers)), bold=bold)


def _table_over_shots(
    title: str, results: Sequence[Result | Difference], sign: str = ""
) -> tuple[list[str], list[list[str]]]:
    """Headers, and per method a row of its accuracy at each shot count."""
    methods, shots = _axes(results)
    cells = {(r.method, r.shots): format_accuracy(r.accuracy, sign) for r in results}
    rows = [[method, *(cells.get((method, s), "") for s in shots)] for method in methods]
    title = f"{title} ({_interval(results[0].accuracy)})"
    return [title, *(counted(count, "shot") for count in shots)], rows


def _axes(results: Sequence[Result | Difference]) -> tuple[list[str], list[Shots]]:
    """The methods and the shot counts, in their order."""
    return list({r.method: None for r in results}), list({r.shots: None for r in results})


def _trend(values: Iterable[float | None], scale: Iterable[float]) -> str:
    """A bar of one character per value, on a scale from the lowest to the highest accuracy."""
    low, *_, high = sorted(scale)
    step = (high - low) / (len(_LEVELS) - 1) or 1.0
    return "".join(" " if v is None else _LEVELS[round((v - low) / step)] for v in values)


def print_chosen(best: Sequence[ChosenConfiguration], validation: str) -> None:
    """One row per shot count: the configuration that validation chose, and its one test."""
    rows = [
        [
            str(chosen.shots),
            f"{chosen.ratio:g}",
            chosen.bottleneck,
            f"{chosen.lr:g}",
            "-" if chosen.val is None else f"{chosen.val:.2f}",
            format_accuracy(chosen.test),
        ]
        for chosen in best
    ]
    headers = ["shots", "ratio", "bottleneck", "lr", f"chosen on {validation} %"]
    headers.append(f"then tested % ({_interval(best[0].test)})")
    print_table(headers, rows, numbers=range(len(headers)))


def print_comparison(record: Record) -> None:
    """Print the accuracies with the best in bold, and the paired differences."""
    say("", f"{record.dataset}, {record.encoder.name}")
    if record.base_to_new is not None:
        _print_base_to_new(record.results)
        return
    for results in _each_kind(record.results):
        print_over_shots(results, compared=True)
    if record.differences:
        title = f"points to {record.differences[0].to}, paired"
        headers, rows = _table_over_shots(title, record.differences, sign="+")
        say("")
        print_table(headers, rows, numbers=range(1, len(headers)))


def print_leaderboard(records: Sequence[Record], caches: Sequence[FeatureCache]) -> None:
    """Print encoders and methods on one dataset, the best first."""
    from cafe.results.leaderboard import leaderboard, other_test_images

    say("", f"{records[0].dataset}, accuracy % (95 %)")
    for _, group in groupby(leaderboard(records), key=lambda place: place.kind):
        _print_places([*group])
    if different := other_test_images(caches):
        note(f"{different}.")


def _print_places(places: Sequence[Place]) -> None:
    """Print encoders and methods that saw as much, under the words of it; the best in bold."""
    shots = list(dict.fromkeys(s for place in places for s in place.accuracies))
    best = {s: max(p.accuracies[s].mean for p in places if s in p.accuracies) for s in shots}
    rows, bold = [], set()
    for y, place in enumerate(places):
        cells = [place.accuracies.get(s) for s in shots]
        rows.append(
            [place.encoder, place.method, *((c and format_accuracy(c)) or "" for c in cells)]
        )
        bold |= {(y, x) for x, c in enumerate(cells, 2) if c and c.mean == best[shots[x - 2]]}
    if places[0].learning != "inductive":
        say("", places[0].learning)
    headers = ["encoder", "method", *(counted(count, "shot") for count in shots)]
    print_table(headers, rows, numbers=range(2, len(headers)), bold=bold)


def print_records_csv(records: Sequence[Record]) -> None:
    """Print one row for each cache, method and shot count."""
    from cafe.results.leaderboard import COLUMNS, table_rows

    print_csv(COLUMNS)
    for row in table_rows(records):
        print_csv(row)


def _print_base_to_new(results: Sequence[Result]) -> None:
    summaries = ((r.accuracy, r.new, r.harmonic_mean) for r in results)
    columns = [[summary for summary in row if summary is not None] for row in summaries]
    table, bold = [], set()
    for y, result in enumerate(results):
        row = [result.method, str(result.shots)]
        for x, accuracy in enumerate(columns[y]):
            rivals = [
                c[x] for r, c in zip(results, columns, strict=True) if r.shots == result.shots
            ]
            row.append(format_accuracy(accuracy))
            if accuracy.mean == max(rival.mean for rival in rivals):
                bold.add((y, x + 2))
        table.append([*row, f"{result.seconds:.2f}"])
    seeds = _interval(results[0].accuracy)
    headers = ["method", "shots", f"base % ({seeds})", "new %", "harmonic mean %", "seconds"]
    print_table(headers, table, numbers=range(1, len(headers)), bold=bold)


def print_published(reproduction: Reproduction) -> None:
    """Print our average of an encoder, and below it the published rows."""
    ours, published = reproduction.comparison.record.results, reproduction.published
    cells = {(r.method, r.shots): format_accuracy(r.accuracy) for r in ours}
    methods, shots = _axes(ours)
    counts = {*shots, *(int(s) for row in published for s in row["accuracy"])}
    columns = sorted(counts - {"all"})
    table = [
        [f"{method} (ours)", *(cells.get((method, s), "") for s in columns), "this run"]
        for method in methods
    ]
    for row in published:
        values = (row["accuracy"].get(str(s)) for s in columns)
        origin = (
            f"{counted(len(row['over']), 'dataset')}; validation: {row['validation']}; "
            f"prompts: {row['prompts']}; {row['source']}"
        )
        texts = ["" if value is None else f"{value:.2f}" for value in values]
        table.append([row["method"], *texts, origin])
    datasets = counted(len(reproduction.comparison.records), "dataset")
    say("", f"{reproduction.encoder}: average of {datasets}, and published numbers (top-1 %)")
    headers = ["accuracy %", *(counted(count, "shot") for count in columns), "from"]
    print_table(headers, table, numbers=range(1, len(headers) - 1))
