"""`cafe runs ls`, `show` and `rm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from cafe.errors import CafeError, counted

from .. import completion
from .. import options as opt
from ..output import confirm_removal, megabytes, note, print_json, print_table, say
from ..result_tables import print_comparison, print_results

Run = Annotated[
    str | None,
    Argument(
        metavar="[RUN]",
        help="A run's folder, or its name in --runs [default: the newest].",
        autocompletion=completion.runs,
    ),
]
Runs = Annotated[
    list[str],
    Argument(
        metavar="RUN",
        help="Folders of runs, or their names in --runs.",
        autocompletion=completion.runs,
    ),
]


def list_(runs: opt.RunsHome = Path("runs"), as_json: opt.Json = False) -> None:
    """List the saved runs, newest first.

    Example: cafe runs ls
    """
    from cafe.datasets.text_files import quote_some
    from cafe.results.run_folders import list_runs, list_unfinished

    if left := list_unfinished(runs):
        note(
            f"cafe: {counted(len(left), 'folder')} of an unfinished grid or comparison in '{runs}' "
            f"({quote_some(path.name for path in left)}): the same command goes on, by "
            "the same versions of cafe and PyTorch. Remove none that a command is working on."
        )
    folders, rows = list_runs(runs), list[dict[str, Any]]()
    for folder in folders:
        try:
            rows.append(_summary(folder))
        except CafeError as error:
            note(f"cafe: {error}")
        except FileNotFoundError:  # removed just now
            continue
    if as_json:
        print_json(rows)
    elif rows:
        headers = [
            "run",
            "dataset",
            "encoder",
            "methods",
            "shots",
            "seeds",
            "learning",
            "MB",
            "made",
        ]
        print_table(headers, list(map(_cells, rows)), numbers=(3, 5, 7))
    elif not folders:
        say(f"no runs in '{runs}'; 'cafe fit' makes one.")


def _summary(folder: Path) -> dict[str, Any]:
    from cafe.results.record import read_record
    from cafe.results.result import by_learning
    from cafe.results.run_folders import size_of_run

    record = read_record(folder)
    results = record.results
    return {
        "run": folder.name,
        "path": str(folder),
        "kind": record.kind or ("grid" if record.best_per_shots else "fit"),
        "dataset": record.dataset,
        "encoder": record.encoder.name,
        "methods": list(dict.fromkeys(result.method for result in results)),
        "shots": list(dict.fromkeys(result.shots for result in results)),
        "seeds": list(record.protocol.seeds),
        "learning": list(by_learning(results)),
        "command": record.command,
        "bytes": size_of_run(folder),
        "created": record.created,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["run"],
        row["dataset"],
        row["encoder"],
        str(len(row["methods"])),
        ", ".join(map(str, row["shots"])),
        str(len(row["seeds"])),
        ", ".join(words.partition(":")[0] for words in row["learning"]),
        f"{row['bytes'] / 1e6:.1f}",
        row["created"],
    ]


def show(run: Run = None, runs: opt.RunsHome = Path("runs"), as_json: opt.Json = False) -> None:
    """Show what a run measured, and how to make it again. Its protocol is said too.

    Example: cafe runs show
    """
    from cafe.results.record import read_record
    from cafe.results.run_folders import locate_run

    record = read_record(locate_run(runs, run))
    if as_json:
        print_json(record.json)
        return
    say(f"{record.folder}, made {record.created}")
    if record.kind is None:
        say("", f"{record.dataset}, {record.encoder.name}")
        print_results(record)
    else:
        print_comparison(record)
    say("", record.protocol.words)
    if record.command:
        say("", f"Made by: {record.command}")


def remove(
    names: Runs,
    runs: opt.RunsHome = Path("runs"),
    yes: opt.Yes = False,
    as_json: opt.Json = False,
) -> None:
    """Remove runs, with their heads. A folder that holds anything else is kept.

    Example: cafe runs rm 20260131-120000-digits-nano --yes
    """
    from cafe.results.run_folders import check_run_removable, locate_run, remove_run

    folders = list(dict.fromkeys(locate_run(runs, name) for name in names))
    for folder in folders:
        check_run_removable(folder)
    confirm_removal(folders, yes=yes)
    sizes = [remove_run(folder) for folder in folders]
    if as_json:
        rows = zip(folders, sizes, strict=True)
        print_json([{"removed": str(folder), "bytes": size} for folder, size in rows])
    else:
        for folder, size in zip(folders, sizes, strict=True):
            say(f"removed {folder}, {megabytes(size)}.")
