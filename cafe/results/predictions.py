"""What the heads of a run say of every test image, and its file in the folder of the run.

`predictions.csv` has a row for each image and head, by image. Names stand in it as they are: quoted
where CSV needs it, and not changed where a spreadsheet would take them for a formula.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.text_files import distinct_names
from cafe.errors import CacheError, InputError, escape_bytes, raise_as, visible
from cafe.features.splits import Shots
from cafe.progress import log
from cafe.results.image_scores import ImageScores
from cafe.store import FeatureCache

PREDICTIONS = "predictions.csv"
COLUMNS = ("id", "split", "label", "guess", "probability", "method", "shots", "seed")

MOST_ROWS = 2_000_000
"""Rows of the file, 100 to 200 MB; of more those of some heads are left out."""

_SLAB = 1 << 16  # rows in memory at a time, a few megabytes


Pairs = Counter[tuple[str, str]]
"""Label and guess -> images."""


class Predictions:
    """What one head says of the N test images.

    Attributes
    ----------
    labels, guesses : ndarray
        Class indices. (N,)
    probabilities : ndarray
        Of the guess, calibrated where the head is. (N,) float32
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        guesses: NDArray[np.int32],
        probabilities: NDArray[np.float32],
    ) -> None:
        self.labels, self.guesses, self.probabilities = labels, guesses, probabilities

    @classmethod
    def of(cls, scores: ImageScores) -> Predictions:
        """The part of a head's scores that a run keeps."""
        guesses = scores.predicted.cpu().numpy().astype(np.int32)
        probabilities = scores.calibrated.cpu().numpy().astype(np.float32)
        return cls(scores.labels.cpu().numpy(), guesses, probabilities)  # one copy for all heads

    def words(self, rows: slice, names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
        """Labels, guesses and probabilities of some images as they are written."""
        return (
            [names[label] for label in self.labels[rows].tolist()],
            [names[guess] for guess in self.guesses[rows].tolist()],
            [f"{probability:.6f}" for probability in self.probabilities[rows].tolist()],
        )

    def pairs(self, names: Sequence[str]) -> Pairs:
        """How many images have a label and get a guess, by the names of the classes."""
        pairs = zip(self.labels.tolist(), self.guesses.tolist(), strict=True)
        return Counter({(names[a], names[b]): n for (a, b), n in Counter(pairs).items()})


class HeadName(NamedTuple):
    """Which head of a run it is."""

    method: str
    shots: Shots
    seed: int


def write_predictions(
    folder: Path, cache: FeatureCache, heads: Mapping[HeadName, Predictions]
) -> None:
    """Write `predictions.csv`, a few megabytes at a time.

    Parameters
    ----------
    folder : Path
    cache : FeatureCache
        Has the ids of the test images and the names of the classes.
    heads : mapping
        Of each head its predictions. Where they have more than `MOST_ROWS` rows, as many heads are
        written as fit, those of the first seeds and the largest shot counts. Without its cache the
        run goes without the file: nobody shall lose a run by that.
    """
    if not heads:
        return
    try:
        _write(folder / PREDICTIONS, cache, heads)
    except CacheError as error:
        (folder / PREDICTIONS).unlink(missing_ok=True)
        log.warning("%s is left out of the run: %s", PREDICTIONS, visible(str(error)))


def _write(path: Path, cache: FeatureCache, heads: Mapping[HeadName, Predictions]) -> None:
    images = cache.counts["test"]
    written = _those_that_fit(heads, max(1, MOST_ROWS // max(1, images)))
    if len(written) < len(heads):
        log.warning("%s holds %d of %d heads.", PREDICTIONS, len(written), len(heads))
    names = distinct_names(cache.header.class_names)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        step = max(1, _SLAB // len(written))
        for start in range(0, images, step):
            slab = slice(start, start + step)
            columns = [(head, *heads[head].words(slab, names)) for head in written]
            for row, image in enumerate(map(escape_bytes, cache.ids("test", slab))):
                writer.writerows(
                    (image, "test", labels[row], guesses[row], probabilities[row], *head)
                    for head, labels, guesses, probabilities in columns
                )


def _those_that_fit(heads: Iterable[HeadName], most: int) -> list[HeadName]:
    """Some of the heads, in their order: of the first seed those that stand last, and so on."""
    numbered = list(enumerate(heads))  # baselines and small shot counts stand first in a record
    seeds = list(dict.fromkeys(head.seed for _, head in numbered))
    wanted = sorted(numbered, key=lambda pair: (seeds.index(pair[1].seed), -pair[0]))
    return [head for _, head in sorted(wanted[:most])]


def read_pairs(
    folder: Path, heads: Iterable[HeadName], names: Iterable[str], classes: int
) -> tuple[dict[HeadName, Pairs], list[str]]:
    """Count labels and guesses of some heads in `predictions.csv`.

    Parameters
    ----------
    folder : Path
        Of a run.
    heads : iterable of HeadName
    names : iterable of str
        The classes that are known.
    classes : int
        How many there may be.

    Returns
    -------
    (dict, list of str)
        As of `Predictions.pairs`, of those heads that are in the file; and the names of all
        classes, those that are known first.

    Raises
    ------
    InputError
        If there is no such file, or it is damaged.
    """
    path, known = folder / PREDICTIONS, dict.fromkeys(names)
    if not path.is_file():
        raise InputError(
            f"'{folder}' has no {PREDICTIONS}: it is an average, or an earlier version of cafe "
            "made it; fit again."
        )
    wanted = {(head.method, str(head.shots), str(head.seed)): head for head in heads}
    found: dict[HeadName, Pairs] = {}
    faults = (OSError, ValueError, LookupError, TypeError, csv.Error)
    with (
        raise_as(InputError, f"'{path}' is damaged", "fit again", faults),
        path.open(newline="", encoding="utf-8") as stream,
    ):
        for row in csv.DictReader(stream, strict=True):
            if None in row.values():
                raise ValueError("its last row is cut")
            head = wanted.get((row["method"], row["shots"], row["seed"]))
            if head is not None:
                pair = row["label"], row["guess"]
                found.setdefault(head, Counter())[pair] += 1
                known |= dict.fromkeys(pair)
                if len(known) > classes:
                    raise ValueError(f"'{pair[1]}' is none of its {classes} classes")
    return found, list(known)
