"""Encoding the blocks of a dataset on a Ray cluster.

The unit of work is the block. Every worker runs the same code on the same batches as a single
machine, and keeps its blocks in the same folder, which all machines see. The finished file is
therefore the same, and a lost worker costs only the block that it was encoding.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cafe.cluster import ask_workers, join_cluster, workers_for
from cafe.datasets.dataset import Dataset
from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import EncoderRecord, load_recorded_encoder
from cafe.encoders.weights import absolute_names
from cafe.extract.blocks import ExtractOptions, PlannedBlock, count_images, unfinished
from cafe.extract.ray_worker import TRIES, Worker
from cafe.extract.resume import ResumeFolder
from cafe.store.key import IMAGE_TOWER


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
        with join_cluster() as ray:
            device, threads = encoder.device.type, torch.get_num_threads()
            workers = workers_for(device, threads, ray.cluster_resources())
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
            worker = load, threads, dataset.without_items(), shared, own
            # an error must end Ray's work before the connection closes
            asked = ask_workers(ray, todo, workers, Worker, worker)
            with contextlib.closing(asked) as answers:
                for answer in answers:
                    done += answer["items"]
                    encoded += answer["images"]
                    if options.progress is not None:
                        options.progress(answer["split"], done, total)
        return encoded
