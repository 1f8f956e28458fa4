"""One worker of a cluster: loads the encoder once and encodes a block per call; imports no ray."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cafe.datasets.base import Dataset
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.errors import CafeError, WeightsError
from cafe.extract.encode import Options, Unit, encode_units, unfinished
from cafe.extract.resume import ResumeFolder
from cafe.store.key import Key, differences

TRIES = ".tries"
"""Suffix of the files that count how often a block was begun."""

_MOST_TRIES = 4  # a block that takes so many workers with it is no accident


@dataclass(frozen=True)
class EncoderSource:
    """What a worker loads its encoder from, and what it must turn out to be.

    Attributes
    ----------
    model, pretrained : str
        As `cafe.encoders.encoder.load_encoder` takes them, files by their full path.
    device : {"cpu", "cuda"}
    precision : str
    threads : int
        Cores that a worker takes where it computes on a CPU.
    identity : mapping
        Of the encoder that the run was started with.
    """

    model: str
    pretrained: str | None
    device: str
    precision: str
    threads: int
    identity: Key

    def load(self) -> Encoder:
        """Load the encoder.

        Raises
        ------
        WeightsError
            If it is another one than the run was started with.
        """
        torch.set_num_threads(self.threads)
        encoder = load_encoder(
            self.model, self.pretrained, device=self.device, precision=self.precision
        )
        different = differences(identity_of(encoder), self.identity)
        if different:
            raise WeightsError(
                f"a worker on {platform.node()} has another encoder: {'; '.join(different)}; "
                "give every machine the same files."
            )
        return encoder


def identity_of(encoder: Encoder) -> Key:
    """The parts of a cache's key that loading an encoder decides."""
    return {
        "architecture_sha256": encoder.architecture_sha256,
        "precision": encoder.precision,
        "preprocess": {name: str(value) for name, value in encoder.preprocess.config.items()},
        "weights_sha256": encoder.weights_sha256,
    }


class Worker:
    """Encodes one block per call, in a process of its own on some machine of the cluster.

    What goes wrong is handed back in the row: Ray would wrap it, or start the worker again.

    Parameters
    ----------
    source : EncoderSource
    dataset : Dataset
        Its images; the items to encode come with each call.
    partial : ResumeFolder
    options : Options
    """

    def __init__(
        self, source: EncoderSource, dataset: Dataset, partial: ResumeFolder, options: Options
    ) -> None:
        self._source, self._dataset = source, dataset
        self._partial, self._options = partial, options
        self._encoder: Encoder | None = None

    def __call__(self, row: Mapping[str, bytes]) -> dict[str, Any]:
        """Encode and keep the block of a pickled unit."""
        unit: Unit = pickle.loads(row["unit"])  # noqa: S301 - the driver's own
        answer = {"split": unit.split, "items": len(unit.items), "images": 0, "error": b""}
        try:
            answer["images"] = self._encode(unit)
        except CafeError as error:
            answer["error"] = pickle.dumps(error)
        return answer

    def _encode(self, unit: Unit) -> int:
        if self._encoder is None:
            self._encoder = self._source.load()
        if unfinished(self._partial, [unit]):  # else its worker was lost after it had kept it
            tries = self._count_try(unit)
            encode_units(self._dataset, self._encoder, self._partial, [unit], self._options)
            tries.unlink(missing_ok=True)
        return len(self._partial.load(unit.split, unit.number)[0].ids)

    def _count_try(self, unit: Unit) -> Path:
        """Ray gives the block of a lost worker to another for ever; a file counts how often."""
        file = self._partial.folder / f"{unit.split}-{unit.number:06d}{TRIES}"
        with file.open("ab") as stream:
            stream.write(b".")
        if file.stat().st_size > _MOST_TRIES:
            raise CafeError(
                f"{_MOST_TRIES} workers died while they encoded '{unit.items[0].id}' and the "
                f"{len(unit.items) - 1} images after it (out of memory?); give --batch-size or "
                "--workers a smaller number and run the command again."
            )
        return file
