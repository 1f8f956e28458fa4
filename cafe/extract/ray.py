"""Encoding the blocks of a dataset on a Ray cluster; the only module that imports ray.

The unit of work is the block. Every worker runs the same code on the same batches as one machine
does and keeps its blocks in the same folder, which all of them see; so the finished file is the
same, and a worker that is lost costs the block that it was encoding.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from cafe.datasets.base import Dataset
from cafe.encoders.encoder import Encoder
from cafe.encoders.weights import absolute_names
from cafe.errors import CafeError, DeviceError, InputError
from cafe.extract.encode import Options, Unit, unfinished
from cafe.extract.ray_worker import TRIES, EncoderSource, Worker, identity_of
from cafe.extract.resume import ResumeFolder

_MOST_THREADS = 16


@dataclass(frozen=True)
class RayEngine:
    """The engine of `cafe.extract.extract.extract` that encodes on every device of a Ray cluster.

    It joins the cluster that `RAY_ADDRESS` names or that runs on this machine; where there is none
    it starts one of this machine's devices. Dataset, weights and cache folder must be at the same
    place on all machines.

    Parameters
    ----------
    model : str
    pretrained : str, optional
        What the encoder was loaded from, as `cafe.encoders.encoder.load_encoder` takes them.
    """

    model: str
    pretrained: str | None = None

    def __call__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        partial: ResumeFolder,
        units: Sequence[Unit],
        options: Options,
    ) -> int:
        """Encode the units that are not finished yet; returns the number of images encoded.

        Raises
        ------
        CafeError
            As on one machine; or if Ray is not installed, or workers are lost again and again.
        """
        for file in partial.folder.glob(f"*{TRIES}"):
            file.unlink()
        todo = unfinished(partial, units)
        total = sum(len(unit.items) for unit in units)
        done = total - sum(len(unit.items) for unit in todo)
        encoded = 0
        with (
            _cluster() as ray,
            contextlib.closing(
                self._answers(ray, dataset, encoder, partial, todo, options)
            ) as answers,
        ):
            for answer in answers:
                if answer["error"]:
                    raise pickle.loads(answer["error"])  # noqa: S301 - a worker's own
                done += answer["items"]
                encoded += answer["images"]
                if options.progress is not None:
                    options.progress(answer["split"], done, total)
        return encoded

    def _answers(
        self,
        ray: Any,
        dataset: Dataset,
        encoder: Encoder,
        partial: ResumeFolder,
        todo: Sequence[Unit],
        options: Options,
    ) -> Generator[dict[str, Any], None, None]:
        if not todo:
            return
        device, threads = encoder.device.type, torch.get_num_threads()
        pool = _pool(device, threads, ray.cluster_resources())
        names = absolute_names(self.model, self.pretrained)
        source = EncoderSource(*names, device, encoder.precision, threads, identity_of(encoder))
        options = replace(options, progress=None, workers=options.workers or pool.decoders)
        rows = [{"unit": pickle.dumps(unit)} for unit in todo]
        # a row is a block of Ray's too, so that what is lost with a worker is one row
        blocks = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(source, _without_items(dataset), partial, options),
            concurrency=min(pool.workers, len(rows)),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        try:
            yield from blocks.iter_rows()
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.RayTaskError):
                raise  # a defect of ours, with its traceback
            raise CafeError(
                f"the cluster lost its workers ({type(error).__name__}); run the same command "
                "again: finished work is kept."
            ) from error


def _without_items(dataset: Dataset) -> Dataset:
    """The dataset as a worker needs it: millions of items stay with the driver."""
    split, items = next((name, items) for name, items in dataset.splits.items() if items)
    root = None if dataset.root is None else dataset.root.absolute()
    return replace(dataset, splits={split: items[:1]}, root=root)


class _Pool(NamedTuple):
    """How many workers a cluster has room for, what each takes, and its threads that decode."""

    workers: int
    cpus: int
    gpus: int
    decoders: int


def _pool(device: str, threads: int, resources: Mapping[str, float]) -> _Pool:
    """A worker per GPU; without, one for as many cores as the driver's PyTorch computes with."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if device == "cpu":
        cores = max(1, min(threads, cpus))
        return _Pool(max(1, cpus // cores), cores, 0, cores)
    if not gpus:
        raise DeviceError("the Ray cluster has no GPU; use --device cpu, or add machines with one.")
    return _Pool(gpus, 1, 1, max(1, min(cpus // gpus, _MOST_THREADS)))


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, joined to a cluster; the connection is closed if it was opened here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
        data = importlib.import_module("ray.data")
    except ImportError as error:
        raise InputError(
            "--engine ray needs Ray, which is not installed: pip install 'cafe-clip[ray]'."
        ) from error
    context = data.DataContext.get_current()
    context.enable_progress_bars = False  # progress is the caller's
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    opened = not ray.is_initialized()
    if opened:
        _join(ray)
    try:
        yield ray
    finally:
        if opened:
            ray.shutdown()


def _join(ray: Any) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init("auto", **quiet)
    except ConnectionError as error:
        if address := os.environ.get("RAY_ADDRESS"):
            raise CafeError(
                f"no Ray cluster answers at '{address}', which RAY_ADDRESS names; start it, or "
                "unset the variable."
            ) from error
        # one's own cluster is nobody else's business
        ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
