"""`cafe.load_record`: the record of a run by its folder."""

from __future__ import annotations

from pathlib import Path

from cafe.results.record import Record, read_record
from cafe.results.run_folders import newest_run


def load_record(run: Path | str = "runs") -> Record:
    """Read the record of a run back.

    Parameters
    ----------
    run : Path or str
        The folder of a run, or a folder of runs, of which it takes the newest.

    Returns
    -------
    Record
        Without the heads, which `cafe.load_head` reads.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    InputError
        If its record is damaged.

    Examples
    --------
    >>> record = cafe.load_record("runs/mine")
    >>> [result.method for result in record.results][:3]
    ['zero-shot', 'nearest-class', 'clip-adapter']
    >>> len(record.frame())  # methods x shots x seeds
    12
    """
    return read_record(newest_run(Path(run)))
