"""One head over several caches of the same images: matching, mixing, and the head at work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cafe
from cafe.errors import InputError
from cafe.extract.importers import import_features
from cafe.store import FeatureCache

SHARED = Path(__file__).parents[2] / "shared" / "data" / "features"
Make = Callable[..., FeatureCache]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Import features of three classes; encoders differ in which classes they tell apart."""

    def made(
        name: str,
        seed: int,
        *,
        width: int = 8,
        spread: float = 1.0,
        dataset: str = "pets",
        **changes: Any,
    ) -> FeatureCache:
        noise, labels = np.random.default_rng(seed), np.arange(60) % 3
        centres = noise.standard_normal((3, width))
        arrays: dict[str, Any] = {"class_names": np.array(["a", "b", "c"])}
        for split in ("train", "test"):
            x = centres[labels] + spread * noise.standard_normal((60, width))
            arrays |= {f"{split}_features": x.astype("f4"), f"{split}_labels": labels}
        arrays["text_prompts"] = (centres + 0.5)[:, None].astype("f4")
        arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        path = tmp_path / "cache" / dataset / f"{name}.x.h5"
        return import_features(tmp_path / f"{name}.npz", path)

    return made


def accuracy(*caches: FeatureCache, method: str = "auto", **options: Any) -> float:
    given = {"shots": 8, "seeds": 2, "runs": None, **options}
    record = cafe.fit(list(caches) if len(caches) > 1 else caches[0], method=method, **given)
    return record.results[-1].accuracy.mean


@pytest.mark.parametrize("method", ["auto", "linear-probe", "lda", "zero-shot"])
def test_two_encoders_are_better_than_either(make: Make, method: str) -> None:
    one, other = make("one", 1), make("other", 2, width=5)
    assert accuracy(one, other, method=method) >= max(
        accuracy(one, method=method), accuracy(other, method=method)
    )


def test_auto_learns_from_the_test_images_of_all_encoders(make: Make, tmp_path: Path) -> None:
    one, bare = make("one", 1, spread=1.5), make("bare", 2, width=5, text_prompts=None)
    turned = make("turned", 1, spread=1.5, test_labels=(np.arange(60) + 1) % 3)
    more = make("more", 2, width=5, text_prompts=None, test_labels=(np.arange(60) + 1) % 3)
    fit: dict[str, Any] = {"method": "auto", "shots": 2, "seeds": 1, "epochs": 5, "pool": "test"}
    fit["device"] = "cpu"  # of the heads' inputs below
    record, other = (
        cafe.fit(caches, runs=tmp_path / "runs", **fit) for caches in ([one, bare], [turned, more])
    )
    seen = "transductive: sees the 60 test images without their labels"
    assert record.results[-1].learning == seen
    (head,), (twin,) = record.results[-1].heads, other.results[-1].heads
    assert all(torch.equal(t, twin.tensors()[name]) for name, t in head.tensors().items())
    members = [encoder["params"]["members"] for encoder in head.params["encoders"]]
    assert [each[-1]["name"] for each in members] == ["lda-prior-pooled"] * 2
    saved = cafe.load_head(next(record.folder.glob("auto.*.safetensors")))  # type: ignore[union-attr]
    x = torch.randn(4, 13)
    torch.testing.assert_close(saved.head(x), head(x))
    plain = cafe.fit([one, bare], runs=None, **{**fit, "pool": None}).results[-1].heads[0]
    assert not torch.allclose(plain(x), head(x), atol=1e-3)


def test_a_cache_without_text_lifts_one_with_text(make: Make) -> None:
    one, bare = make("one", 1, spread=1.5), make("bare", 2, spread=0.3, text_prompts=None)
    assert accuracy(one, bare) > accuracy(one)
    record = cafe.fit([one, bare], method="auto", shots=8, seeds=1, runs=None)
    alone = cafe.fit(one, method="lda", shots=8, seeds=1, runs=None)
    zero_shot = (alone.results[0], record.results[0])
    assert zero_shot[0].method == zero_shot[1].method == "zero-shot"
    assert zero_shot[0].accuracy.mean == pytest.approx(zero_shot[1].accuracy.mean, abs=1e-4)
    with pytest.raises(InputError, match="clip-adapter needs text of the classes"):
        cafe.fit([one, bare], method="clip-adapter", shots=8, seeds=1, runs=None)


def test_the_record_and_the_head_name_all(make: Make, tmp_path: Path) -> None:
    one, other, notes = make("one", 1), make("other", 2, width=5), list[str]()
    record = cafe.fit(
        [one, other], method="auto", shots=4, seeds=1, runs=tmp_path / "runs", note=notes.append
    )
    assert record.encoder.name == "one.x+other.x"
    assert record.cache == (str(one.path), str(other.path))
    assert notes == ["One head over 2 encoders of the same 120 images: pets/one.x, pets/other.x."]
    assert notes[0] in record.protocol.words
    assert record.folder is not None
    saved = cafe.load_head(record.folder / "auto.4shot.seed0.safetensors")
    x = np.random.default_rng(0).standard_normal((4, 13)).astype("f4")
    assert np.allclose(saved.head(x), record.results[-1].heads[0](x), atol=1e-5)
    assert [encoder["name"] for encoder in saved.head.params["encoders"]] == ["one.x", "other.x"]
    made = cafe.export_head(record.folder, "torch", method="auto", output=tmp_path / "h.pt2")
    assert made.difference < 1e-3
    with pytest.raises(InputError, match="takes the features of 2 encoders"):
        cafe.export_head(record.folder, "torch", method="auto", with_encoder=True)


def test_images_that_are_not_in_all_are_left_out_and_counted(make: Make) -> None:
    labels = np.arange(57) % 3
    x = np.random.default_rng(3).standard_normal((57, 8)).astype("f4")
    few, notes = make("few", 2, test_features=x, test_labels=labels), list[str]()
    record = cafe.fit(
        [make("one", 1), few], method="lda", shots=2, seeds=1, runs=None, note=notes.append
    )
    assert notes[1] == "3 images of pets/one.x are left out: not in all caches."
    assert notes[2].startswith("Images without names are matched by their place")
    assert "57 test images" in record.protocol.words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "cars"}, "are of different datasets"),
        ({"class_names": np.array(["a", "c", "b"])}, "have different classes"),
        ({"train_labels": (np.arange(60) + 1) % 3}, "60 labels of train are different"),
    ],
)
def test_what_disagrees_is_refused(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        accuracy(make("one", 1), make("other", 2, **changes))


@pytest.mark.parametrize("extra", [{"pool": "other"}, {"self_train": 3}])
def test_what_is_for_one_encoder_is_refused(make: Make, extra: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is for a head of one encoder; give one cache, not 2"):
        accuracy(make("one", 1), make("other", 2), **extra)


def test_a_cache_is_named_once(make: Make) -> None:
    one = make("one", 1)
    with pytest.raises(InputError, match="is named twice"):
        accuracy(one, one)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_real_encoders(tmp_path: Path) -> None:
    caches = [
        import_features(SHARED / f"whu-rs19.{name}.npz", tmp_path / "whu-rs19" / f"{name}.h5")
        for name in ("ViT-B-32.openai", "RN50.openai")
    ]
    assert accuracy(*caches, method="lda", shots=16, seeds=1) > 98.8


def test_both_encoders_are_run_on_each_image(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    nano = cafe.Extractor("nano").extract("digits")
    other = cafe.Extractor("nano", "none").extract("digits")
    record = cafe.fit([nano, other], method="lda", shots=4, seeds=1)
    assert record.folder is not None
    predictor = cafe.Predictor.load(record.folder, method="lda")
    image = np.zeros((8, 8, 3), np.uint8)
    assert predictor.predict_proba([image, image]).shape == (2, 10)
