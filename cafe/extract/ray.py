"""Encoding the blocks of a dataset on a Ray cluster; the only module that imports ray.

The unit of work is the block. Every worker runs the same code on the same batches as a single
machine, and keeps its blocks in the same folder, which all machines see. The finished file is
therefore the same, and a lost worker costs only the block that it was encoding.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import pickle
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from cafe.datasets.dataset import Dataset
from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import IMAGE_TOWER, EncoderRecord, load_recorded_encoder
from cafe.encoders.weights import absolute_names
from cafe.errors import CafeError, DeviceError, InputError, how_to_install
from cafe.extract.blocks import ExtractOptions, PlannedBlock, count_images, unfinished
from cafe.extract.ray_worker import TRIES, Worker
from cafe.extract.resume import ResumeFolder

_MOST_THREADS = 16


@dataclass(frozen=True)
class RayEngine:
    """The engine of `cafe.extract.extract.extract` that encodes on every device of a Ray cluster.

    It joins the cluster that `RAY_ADDRESS` names, or one that runs on this machine. Where there is
    none, it starts one with this machine's devices. Dataset, weights and cache folder must have the
    same paths on all machines.

    Parameters
    ----------
    model : str
    pretrained : str, optional
        The arguments of `cafe.encoders.encoder.load_encoder` that the encoder was loaded with.
    """

    model: str
    pretrained: str | None = None

    def __call__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        resume: ResumeFolder,
        blocks: Sequence[PlannedBlock],
        options: ExtractOptions,
    ) -> int:
        """Encode the blocks that are not finished yet; returns the number of images encoded.

        Raises
        ------
        CafeError
            As on one machine; also if Ray is not installed, or a block loses worker after worker.
        """
        for file in resume.folder.glob(f"*{TRIES}"):
            file.unlink()  # of an earlier run, with other options
        todo = unfinished(dataset, resume, blocks)
        total, encoded = count_images(blocks), 0
        done = total - count_images(todo)
        if not todo:
            return 0
        with _cluster() as ray:
            device, threads = encoder.device.type, torch.get_num_threads()
            workers = _workers(device, threads, ray.cluster_resources())
            key, owner = encoder.key(), "this extraction"
            load = functools.partial(
                load_recorded_encoder,
                EncoderRecord(encoder.model, encoder.pretrained, key, owner),
                *absolute_names(self.model, self.pretrained),
                device=device,
                precision=key["precision"],
                parts=(*IMAGE_TOWER, "precision"),
            )
            decoders = options.workers or workers.decoders
            own = replace(options, progress=None, workers=decoders)  # the driver shows progress
            shared = ResumeFolder(resume.folder.absolute())  # workers have other working folders
            worker = load, threads, _without_items(dataset), shared, own
            # an error must end Ray's work before the connection closes
            with contextlib.closing(_answers(ray, todo, workers, worker)) as answers:
                for answer in answers:
                    if answer["error"]:
                        raise pickle.loads(answer["error"])  # noqa: S301 - a worker's own
                    done += answer["items"]
                    encoded += answer["images"]
                    if options.progress is not None:
                        options.progress(answer["split"], done, total)
        return encoded


def _answers(
    ray: Any, blocks: Sequence[PlannedBlock], workers: _Workers, arguments: tuple[Any, ...]
) -> Generator[dict[str, Any], None, None]:
    """What the workers, made with these arguments, answer for each block, in any order."""
    rows = [{"block": pickle.dumps(block)} for block in blocks]
    # one row in each of Ray's own blocks, so that a lost worker loses one row
    answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Worker,
        fn_constructor_args=arguments,
        concurrency=min(workers.number, len(rows)),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    try:
        yield from answers.iter_rows()
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # a bug in cafe: keep its traceback
        raise CafeError(
            f"the cluster lost its workers ({type(error).__name__}); run the same command again: "
            "finished work is kept."
        ) from error


def _without_items(dataset: Dataset) -> Dataset:
    """The dataset for the workers; it may have millions of items, which stay with the driver."""
    split, items = next((name, items) for name, items in dataset.splits.items() if items)
    root = None if dataset.root is None else dataset.root.absolute()
    return replace(dataset, splits={split: items[:1]}, root=root)


class _Workers(NamedTuple):
    """How many workers a cluster has room for, what each of them takes, and its threads."""

    number: int
    cpus: int
    gpus: int
    decoders: int


def _workers(device: str, threads: int, resources: Mapping[str, float]) -> _Workers:
    """One worker per GPU, or on CPUs one per as many cores as the driver's PyTorch uses."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if device == "cpu":
        cores = max(1, min(threads, cpus))
        return _Workers(max(1, cpus // cores), cores, 0, cores)
    if not gpus:
        raise DeviceError("the Ray cluster has no GPU; use device='cpu', or add machines with one.")
    return _Workers(gpus, 1, 1, max(1, min(cpus // gpus, _MOST_THREADS)))


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected to a cluster; the connection is closed if it was opened here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
        data = importlib.import_module("ray.data")
    except ImportError as error:
        raise InputError(
            f"the engine 'ray' needs Ray, which is not installed: {how_to_install('ray')}."
        ) from error
    context = data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller shows the progress
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
        # a cluster of this machine only: it listens on loopback and serves no dashboard
        ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
