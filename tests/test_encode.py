"""Encoding beside an accelerator and on the cores of a CPU gives the same features in order."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cafe.datasets.base import Dataset
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Augmentation
from cafe.extract import encode as encoding
from cafe.extract.decode import Decoder
from cafe.extract.encode_batch import Encoded
from cafe.extract.extract import Options, extract
from cafe.store import FeatureCache


def batches(
    way: str, dataset: Dataset, encoder: Encoder, threads: int, piece: int = 2
) -> list[tuple[str, list[str], Encoded]]:
    units = encoding.plan_units(dataset, encoder, Options(batch_size=6))
    decoder = Decoder(dataset, encoder.preprocess)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_PIECE", piece)
        options = Options(augmentation=Augmentation(views=2), spatial=2)
        found = getattr(encoding, way)(encoder, decoder, units, options, threads)
        return [(u.split, [i.item.id for i in images], batch) for u, images, batch in found]


@pytest.mark.parametrize("piece", [1, 4, 6, 100])
def test_pieces_are_put_together_as_batches(dataset: Dataset, tiny: Encoder, piece: int) -> None:
    cores = batches("_on_cores", dataset, tiny, 2)
    device = batches("_beside_device", dataset, tiny, 3, piece)
    assert [len(ids) for _, ids, _ in cores] == [6, 6, 6, 2, 4, 4]
    assert [(split, ids) for split, ids, _ in device] == [(split, ids) for split, ids, _ in cores]
    for (_, _, one), (_, _, other) in zip(device, cores, strict=True):
        assert np.array_equal(one.features, other.features)
        assert one.spatial is not None
        assert other.spatial is not None
        assert np.array_equal(one.spatial, other.spatial)


def test_features_do_not_depend_on_threads(dataset: Dataset, tiny: Encoder, tmp_path: Path) -> None:
    digests, before = set(), torch.get_num_threads()
    for threads, workers in ((1, None), (2, None), (1, 3)):
        torch.set_num_threads(threads)
        path = tmp_path / f"{threads}{workers}" / "shapes" / "tiny.local.h5"
        options = Options(batch_size=3, workers=workers)
        extract(dataset, tiny, path, sentences=[["a disc."], ["a square."]], options=options)
        digests.add(FeatureCache.open(path).content_sha256)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert len(digests) == 1
