"""Encoding beside an accelerator and on the cores of a CPU gives the same features in order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cafe.datasets.dataset import Dataset, Item
from cafe.devices import torch_threads
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder
from cafe.extract import pipeline
from cafe.extract.blocks import ExtractOptions, plan_blocks
from cafe.extract.decode import DecodedImage, ImageReader, decode_item
from cafe.extract.encode import EncodedBatch
from cafe.extract.extract import extract
from cafe.store import FeatureCache


def batches(
    dataset: Dataset, encoder: Encoder, threads: int, *, core_per_batch: bool, piece: int = 2
) -> list[tuple[list[str], EncodedBatch]]:
    """Ids (passed on as reasons) and the encoder's output, by batches of 6 images at most."""

    def reader(item: Item) -> ImageReader:
        def work() -> DecodedImage:
            image = decode_item(dataset, item, encoder.preprocess, Augmentation(views=2))
            return image._replace(reason=item.id)

        return work

    planned = plan_blocks(dataset, encoder, ExtractOptions(batch_size=6))
    items = [batch for block in planned for batch in block.batches()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_PIECE", piece)
        results = pipeline.decode_and_encode(
            encoder,
            ([reader(item) for item in batch] for batch in items),
            threads=threads,
            batch_size=6,
            spatial=2,
            core_per_batch=core_per_batch,
        )
        return [([image.reason for image in images], batch) for images, batch in results]


@pytest.mark.parametrize("piece", [1, 4, 6, 100])
def test_pieces_are_put_together_as_batches(dataset: Dataset, tiny: Encoder, piece: int) -> None:
    cores = batches(dataset, tiny, 2, core_per_batch=True)
    device = batches(dataset, tiny, 3, core_per_batch=False, piece=piece)
    assert [len(ids) for ids, _ in cores] == [6, 6, 6, 2, 4, 4]
    assert [ids for ids, _ in device] == [ids for ids, _ in cores]
    for (_, one), (_, other) in zip(device, cores, strict=True):
        assert np.array_equal(one.features, other.features)
        assert one.spatial is not None
        assert other.spatial is not None
        assert np.array_equal(one.spatial, other.spatial)


@pytest.mark.parametrize("threads", [1, 2])
def test_each_of_torchs_threads_encodes(
    dataset: Dataset, tiny: Encoder, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs["threads"])
        return pipeline.decode_and_encode(*args, **kwargs)

    monkeypatch.setattr("cafe.extract.blocks.decode_and_encode", counted)
    with torch_threads(threads):
        extract(dataset, tiny, tmp_path / "a" / "b.h5", sentences=[["a disc."], ["a square."]])
    assert given == [threads]


def test_features_do_not_depend_on_threads(dataset: Dataset, tiny: Encoder, tmp_path: Path) -> None:
    digests, before = set(), torch.get_num_threads()
    for threads, workers in ((1, None), (2, None), (1, 3)):
        torch.set_num_threads(threads)
        path = tmp_path / f"{threads}{workers}" / "shapes" / "tiny.local.h5"
        options = ExtractOptions(batch_size=3, workers=workers)
        extract(dataset, tiny, path, sentences=[["a disc."], ["a square."]], options=options)
        digests.add(FeatureCache.open(path).content_sha256)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert len(digests) == 1
