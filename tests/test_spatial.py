"""Spatial maps: tokens in the tower's own space, stored, resumed, read in parts, used on images."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from digits_run import Answer, call
from making import TINY, make_block, make_header
from PIL import Image

import cafe
from cafe.datasets.dataset import Dataset
from cafe.datasets.prompts import fill
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.spatial import SpatialTower, _vit, encode_spatial, encode_with_map, grid_of
from cafe.errors import CacheFormatError, CacheMismatchError, InputError
from cafe.extract.blocks import ExtractOptions
from cafe.extract.extract import extract
from cafe.features.task import load_task
from cafe.results.runs import HeadSelector, find_head
from cafe.store import FORMAT, Block, FeatureCache, verify_cache, write_cache
from cafe.store.merge import merge_caches

Run = Callable[..., Answer]
RESNET = {
    "model_cfg": {
        **TINY["model_cfg"],
        "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    },
    "preprocess_cfg": {**TINY["preprocess_cfg"], "size": 96},
}


def load(folder: Path, config: object) -> Encoder:
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return load_encoder(str(folder), "none", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load(tmp_path_factory.mktemp("towers") / "resnet", RESNET)


def pixels(encoder: Encoder, count: int = 3) -> torch.Tensor:
    height, width = encoder.preprocess.size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def test_the_class_token_projected_is_the_feature(tiny: Encoder) -> None:
    visual, x = tiny._network.visual, tiny.standardized(pixels(tiny))
    with torch.no_grad():
        found = visual.forward_intermediates(
            x, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
        )
        projected = _vit(visual, found["image_intermediates_prefix"][-1])[:, 0]
    torch.testing.assert_close(projected, tiny.encode_pixels(pixels(tiny)))


def test_under_even_attention_the_feature_is_the_mean_of_the_tokens(resnet: Encoder) -> None:
    network = copy.deepcopy(resnet._network)
    pool = network.visual.attnpool
    x = resnet.standardized(pixels(resnet))
    with torch.no_grad():
        pool.q_proj.weight.zero_()
        pool.q_proj.bias.zero_()
        features, tokens = encode_with_map(network, x, 3)
        grid = network.visual.forward_intermediates(x, indices=1)["image_intermediates"][-1]
        mean = grid.flatten(2).mean(-1) + pool.positional_embedding[0]
        whole = pool.c_proj(pool.v_proj(mean))[:, None]
    assert tokens.shape == (3, 9, 16)
    torch.testing.assert_close(torch.cat([whole, tokens], 1).mean(1), features)


@pytest.mark.parametrize("kind", ["tiny", "resnet"])
def test_features_are_the_same_with_and_without_a_map(
    kind: str, request: pytest.FixtureRequest
) -> None:
    encoder: Encoder = request.getfixturevalue(kind)
    features, tokens = encode_spatial(encoder, pixels(encoder), 7)
    assert torch.equal(features, encoder.encode_pixels(pixels(encoder)))
    assert tokens.dtype == torch.float16
    height, width = grid_of(encoder, 7)
    assert tokens.shape == (3, height * width, encoder.width)
    tower = SpatialTower(encoder._network, 7)
    with torch.no_grad():
        both = tower(encoder.standardized(pixels(encoder)))
    torch.testing.assert_close(both[:, 0], features)
    torch.testing.assert_close(both[:, 1:], tokens.float(), atol=2e-3, rtol=2e-3)


def test_pooling_averages_neighbours(resnet: Encoder) -> None:
    _, fine = encode_spatial(resnet, pixels(resnet), 3)
    _, coarse = encode_spatial(resnet, pixels(resnet), 1)
    assert grid_of(resnet, 2) == (2, 2)
    assert grid_of(resnet, 99) == (3, 3)
    mean = fine.float().mean(1, keepdim=True)
    torch.testing.assert_close(coarse.float(), mean, atol=2e-3, rtol=2e-3)


def test_towers_without_a_map_and_pools_that_are_none(tiny: Encoder) -> None:
    coca = copy.deepcopy(tiny._network)
    coca.visual.attn_pool = torch.nn.Identity()
    with pytest.raises(InputError, match="no spatial map of this encoder's VisionTransformer"):
        encode_with_map(coca, torch.zeros(1, 3, 32, 32), 7)
    with pytest.raises(InputError, match="no spatial map of this encoder's VisionTransformer"):
        grid_of(load_encoder("timm:test_vit", "none", device="cpu"), 7)
    with pytest.raises(InputError, match="pool must be at least 1; got 0"):
        grid_of(tiny, 0)


def encode(dataset: Dataset, encoder: Encoder, path: Path, **options: object) -> FeatureCache:
    sentences = fill(dataset.class_names, dataset.templates)
    chosen = ExtractOptions(**{"spatial": 7, **options})  # type: ignore[arg-type]
    extract(dataset, encoder, path, sentences=sentences, options=chosen)
    return FeatureCache.open(path)


@pytest.fixture
def spatial(dataset: Dataset, tiny: Encoder, tmp_path: Path) -> FeatureCache:
    return encode(dataset, tiny, tmp_path / "cache/shapes/tiny.local.h5")


def test_extracted_maps_are_the_encoders(
    spatial: FeatureCache, dataset: Dataset, tiny: Encoder
) -> None:
    assert spatial.spatial_size == 4
    assert spatial.header.key["spatial"] == {"grid": [2, 2], "tokens": "projected"}
    shown = [
        tiny.preprocess.pixels(dataset.open_image(i).convert("RGB")) for i in dataset.splits["test"]
    ]
    features, tokens = encode_spatial(tiny, torch.from_numpy(np.stack(shown)), 7)
    read = spatial.read("test")
    np.testing.assert_allclose(read.features, features, atol=1e-5)
    np.testing.assert_allclose(spatial.read_spatial_maps("test"), tokens, atol=2e-3)


def test_features_are_those_of_a_cache_without_maps(
    spatial: FeatureCache, dataset: Dataset, tiny: Encoder, tmp_path: Path
) -> None:
    plain = encode(dataset, tiny, tmp_path / "plain.h5", spatial=None)
    assert "spatial" not in plain.header.key
    for split in plain.counts:
        assert np.array_equal(plain.read(split).features, spatial.read(split).features)
    with pytest.raises(InputError, match="has no spatial features"):
        plain.read_spatial_maps("test")
    with h5py.File(plain.path) as file, h5py.File(spatial.path) as other:
        assert file.attrs["cafe_format"] == other.attrs["cafe_format"] == 3  # they know the files
    for cache, number in ((plain, FORMAT), (spatial, FORMAT + 1)):
        copied = {split: cache.blocks(split) for split in cache.counts}
        write_cache(tmp_path / "bare.h5", cache.header, copied)
        with h5py.File(tmp_path / "bare.h5") as file:
            assert file.attrs["cafe_format"] == number
        assert FeatureCache.open(tmp_path / "bare.h5").content_sha256 == cache.content_sha256
    with pytest.raises(CacheMismatchError, match="spatial is null, asked for"):
        encode(dataset, tiny, tmp_path / "plain.h5")


def test_an_interrupted_extraction_ends_with_the_same_file(
    spatial: FeatureCache, dataset: Dataset, tiny: Encoder, tmp_path: Path
) -> None:
    path = tmp_path / "again.h5"

    def stop(_: str, done: int, __: int) -> None:
        if done > 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(dataset, tiny, path, batch_size=1, progress=stop)
    whole = encode(dataset, tiny, path, batch_size=1)
    other = encode(dataset, tiny, tmp_path / "other.h5", batch_size=1)
    assert whole.content_sha256 == other.content_sha256
    assert verify_cache(path).problems == ()


def test_maps_survive_a_merge(spatial: FeatureCache, tmp_path: Path) -> None:
    others = {
        split: [
            Block([f"other {n}" for n in b.ids], b.labels, b.features, None, b.spatial)
            for b in spatial.blocks(split)
        ]
        for split in spatial.counts
    }
    write_cache(tmp_path / "other.h5", spatial.header, others)
    joined = merge_caches(
        [spatial, FeatureCache.open(tmp_path / "other.h5")], tmp_path / "all/tiny.local.h5"
    )
    one = spatial.read_spatial_maps("test")
    assert np.array_equal(joined.read_spatial_maps("test"), np.concatenate([one, one]))


def with_maps(rows: int, start: int = 0, tokens: int = 3) -> Block:
    block = make_block(rows, start=start)
    maps = np.random.default_rng(start).standard_normal((rows, tokens, 8)).astype(np.float16)
    return Block(block.ids, block.labels, block.features, None, maps)


def test_rows_are_read_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_cache(path, make_header(), {"train": [with_maps(30), with_maps(9, 30)]})
    cache = FeatureCache.open(path)
    whole = cache.read_spatial_maps("train")
    assert whole.dtype == np.float16
    for rows in ([], [38, 0, 7, 7], list(range(38, -1, -1))):
        assert np.array_equal(cache.read_spatial_maps("train", rows), whole[rows])
    joined = np.concatenate([block.spatial for block in cache.blocks("train")])  # type: ignore[arg-type]
    assert np.array_equal(joined, whole)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": [with_maps(3)], "test": [with_maps(3, 9, tokens=4)]}, r"of \[3, 4\] tokens"),
        ({"train": [with_maps(3)], "test": [make_block(3, start=9)]}, r"of \[0, 3\] tokens"),
    ],
)
def test_maps_that_do_not_fit(tmp_path: Path, splits: dict[str, list[Block]], message: str) -> None:
    write_cache(tmp_path / "x.h5", make_header(), splits)
    with pytest.raises(CacheFormatError, match=message):
        FeatureCache.open(tmp_path / "x.h5")


def test_a_packed_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_cache(path, make_header(), {"train": [with_maps(3)]})
    with h5py.File(path, "r+") as file:
        group = file["splits/train"]
        maps = group["spatial"][:]
        del group["spatial"]
        packed = group.create_dataset("spatial", data=maps, compression="gzip", fletcher32=True)
        packed.attrs["sha256"] = np.bytes_(b"0" * 64)
    with pytest.raises(
        CacheFormatError, match="'splits/train/spatial' is not stored under the one"
    ):
        FeatureCache.open(path)


def test_maps_stay_on_disk_until_they_are_asked_for(
    spatial: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = FeatureCache.read_spatial_maps

    def count(self: FeatureCache, split: str, rows: np.ndarray, **options: object) -> np.ndarray:
        read.append(len(rows))
        return plain(self, split, rows, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FeatureCache, "read_spatial_maps", count)
    task = load_task(spatial)
    assert task.spatial_size == 4
    drawn = task.splits["train"][torch.tensor([3, 1, 17])].to("cpu")
    whole = task.splits["test"].to("cpu")
    assert read == []
    assert drawn.inputs(spatial=True).shape == (3, 5, 16)
    assert [len(block) for block in whole.blocks(3, spatial=True)] == [3, 1]
    assert read == [3, 3, 1]


@pytest.fixture
def run(
    spatial: FeatureCache,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return lambda *words: call(monkeypatch, capsys, *words)


def test_from_images_to_predictions(
    run: Run, spatial: FeatureCache, tiny_folder: Path, tmp_path: Path
) -> None:
    words = ["--method", "vt-clip", "--shots", "2", "--seeds", "1", "--epochs", "3", "--json"]
    fitted = run("fit", *words, "--validation", "full")
    assert fitted.code == 0, fitted.err
    saved = cafe.load_head(find_head("runs", HeadSelector("vt-clip")))
    assert saved.pool == 2
    test = load_task(spatial).splits["test"].to("cpu")
    expected = saved.probabilities(test.inputs(spatial=True))
    answer = run(
        "predict",
        "runs",
        "images/test",
        "--model",
        tiny_folder,
        "--method",
        "vt-clip",
        "--format",
        "jsonl",
        "--explain",
        "--top",
        "2",
    )
    assert answer.code == 0, answer.err
    place = {name: row for row, name in enumerate(spatial.ids("test"))}
    for line in answer.out.splitlines():
        one = json.loads(line)
        row = expected[place[one["image"].removeprefix("images/")]]
        assert one["probability"] == pytest.approx(row.max().item(), abs=1e-3)
        assert "zero_shot" in one
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert (
        "none"
        in run(
            "predict",
            "runs",
            "broken.png",
            "broken.png",
            "--model",
            tiny_folder,
            "--method",
            "vt-clip",
        ).err
    )


@pytest.mark.parametrize("whole", [False, True])
def test_exports(run: Run, tiny_folder: Path, whole: bool) -> None:
    run("fit", "--method", "vt-clip", "--shots", "2", "--seeds", "1", "--epochs", "3")
    made = cafe.export_head(
        "runs",
        "torch",
        output="x.pt2",
        method="vt-clip",
        with_encoder=whole,
        model=str(tiny_folder),
        images="images/test" if whole else None,
    )
    assert made.difference < 1e-3
    assert ("float32 (N, 5, 16)" in made.card.read_text()) != whole


def test_a_report(run: Run) -> None:
    run("fit", "--method", "vt-clip", "--shots", "2", "--seeds", "1", "--epochs", "3")
    assert run("report", "runs", "-o", "page.html").code == 0


def test_a_cache_without_maps_is_told_how_to_get_them(run: Run) -> None:
    assert run("extract", "--dataset", "digits").code == 0
    answer = run("fit", "digits/nano.glyphs", "--method", "vt-clip", "--shots", "1")
    assert answer.code == 2
    assert "cafe extract digits --model nano --spatial --rebuild" in answer.err
    assert not Path("runs").exists()


def test_the_size_is_said_before_it_is_written(run: Run, tiny_folder: Path) -> None:
    for name in ("a", "b"):
        Path("photos", name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(f"photos/{name}/1.png")
    words = ["--dataset", "photos", "--model", tiny_folder]
    answer = run("extract", *words, "--spatial", "--pool", "1")
    assert "maps of 1 x 1 tokens take up to" in answer.err
