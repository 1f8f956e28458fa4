"""Classes that their texts do not tell apart: found, and refused by methods that read the texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from making import make_block, make_header
from numpy.typing import NDArray

import cafe
from cafe.errors import InputError
from cafe.features.tensors import ClassText
from cafe.methods.catalog import CATALOG, find_method
from cafe.store import write_cache
from cafe.store.equal_texts import class_weights, equal_texts

DRAW = np.random.default_rng(0)


def draw_texts(classes: int = 6, prompts: int = 2) -> NDArray[np.float32]:
    return DRAW.standard_normal((classes, prompts, 16)).astype(np.float32)


class TestEqualTexts:
    def test_none_are(self) -> None:
        assert equal_texts(draw_texts()) == []

    def test_groups(self) -> None:
        texts = draw_texts()
        texts[3], texts[5], texts[4] = texts[0], texts[0], texts[2]
        assert equal_texts(texts) == [(0, 3, 5), (2, 4)]

    def test_length_order_and_rounding_do_not_matter(self) -> None:
        texts = draw_texts()
        texts[1] = 30 * texts[0, ::-1]
        texts[2] = texts[0].astype(np.float16)
        texts[3] = texts[0] + 1e-5
        assert equal_texts(texts) == [(0, 1, 2, 3)]
        assert equal_texts(texts.astype(np.float16)) == [(0, 1, 2, 3)]

    def test_a_small_difference_does(self) -> None:
        texts = draw_texts(prompts=1)
        texts[1] = texts[0] + 0.02 * np.linalg.norm(texts[0]) * texts[2]
        assert equal_texts(texts) == []

    def test_classes_without_a_text(self) -> None:
        texts = draw_texts()
        texts[1] = texts[4] = 0
        assert equal_texts(texts) == [(1, 4)]

    def test_prompts_that_pad(self) -> None:
        texts = draw_texts(prompts=3)
        texts[0, 2] = texts[1, 2] = 0
        texts[1, :2] = texts[0, :2]
        assert equal_texts(texts) == [(0, 1)]

    def test_more_classes_than_are_compared_at_a_time(self) -> None:
        texts = draw_texts(classes=2100, prompts=1)
        texts[2099], texts[1024] = texts[3], texts[1023]
        assert equal_texts(texts) == [(3, 2099), (1023, 1024)]

    def test_weights_are_those_of_zero_shot(self) -> None:
        texts = draw_texts()
        text = ClassText(torch.from_numpy(texts), ("x",) * 6, 100.0)
        np.testing.assert_allclose(class_weights(texts), text.weights.numpy(), atol=1e-6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cache of three classes, the last two of one text and one name."""
    texts = draw_texts(classes=3)
    texts[2] = texts[1]
    names = ("ibis", "crane", "crane")
    header = make_header(width=16, text_features=texts, class_names=names)
    path = tmp_path / "cache" / "noise" / "tiny.none.h5"
    blocks = {s: [make_block(12, 16, start=n)] for n, s in enumerate(("train", "test"))}
    write_cache(path, header, blocks)
    return path


IMAGES_ALONE = ["nearest-class", "knn", "linear-probe", "lda"]


def test_which_methods_read_no_text() -> None:
    found = {name for name in CATALOG if not find_method(name).reads_text({})}
    assert found == {*IMAGES_ALONE}
    assert find_method("linear-probe").reads_text({"start": "zero-shot"})


class TestRefused:
    MESSAGE = r"classes 1 'crane', 2 'crane' of noise have equal text features, which .*cannot tell"

    @pytest.mark.parametrize("method", ["zero-shot", "clip-adapter", "tip-adapter", "auto"])
    def test_fit(self, path: Path, method: str) -> None:
        with pytest.raises(InputError, match=self.MESSAGE):
            cafe.fit(path, method=method, shots=1, seeds=1, runs=None)

    def test_compare(self, path: Path) -> None:
        with pytest.raises(InputError, match=r"zero-shot, clip-adapter, .* and \d+ more cannot"):
            cafe.compare(path, shots=1, seeds=1, runs=None)

    def test_grid(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=self.MESSAGE):
            cafe.grid(path, ratio=0.2, shots=2, seeds=1, runs=tmp_path / "runs")
        assert not (tmp_path / "runs").exists()

    def test_meta_train(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=self.MESSAGE):
            cafe.meta_train(path, output=tmp_path / "meta.safetensors", shots=1)

    def test_a_linear_probe_from_the_texts(self, path: Path) -> None:
        with pytest.raises(InputError, match="which linear-probe cannot tell apart"):
            cafe.fit(path, method="linear-probe", start="zero-shot", shots=1, seeds=1, runs=None)

    def test_the_estimator(self) -> None:
        texts, y = draw_texts(classes=3, prompts=1)[:, 0], np.arange(12) % 3
        x = texts[y] + 0.1 * DRAW.standard_normal((12, 16)).astype(np.float32)
        texts[2] = texts[1]
        with pytest.raises(InputError, match="of text_features have equal text features"):
            cafe.AdapterClassifier(text_features=texts).fit(x, y)
        assert cafe.AdapterClassifier("knn", text_features=texts).fit(x, y).score(x, y) == 1


def test_the_estimator_asks_which_label_a_row_is_for() -> None:
    texts, y = draw_texts(classes=12, prompts=1)[:, 0], np.arange(24) % 12
    x = texts[y] + 0.1 * DRAW.standard_normal((24, 16)).astype(np.float32)
    labels = np.arange(12).astype(str)
    with pytest.raises(InputError, match=r"text \(0, 1, 10\) or of numbers \(0, 1, 2\)"):
        cafe.AdapterClassifier("zero-shot", text_features=texts).fit(x, labels[y])
    given = cafe.AdapterClassifier("zero-shot", text_features=texts, class_names=labels)
    assert given.fit(x, labels[y]).score(x, labels[y]) == 1
    assert cafe.AdapterClassifier("zero-shot", text_features=texts).fit(x, y).score(x, y) == 1


class TestGoesOn:
    @pytest.mark.parametrize("method", IMAGES_ALONE)
    def test_fit(self, path: Path, method: str) -> None:
        record = cafe.fit(path, method=method, shots=2, seeds=1, runs=None)
        methods = [result.method for result in record.results]
        assert methods == list(dict.fromkeys(["nearest-class", method]))
        assert (
            "zero-shot is left out: classes 1 'crane', 2 'crane' have equal text features."
            in record.protocol.words
        )

    def test_compare(self, path: Path, tmp_path: Path) -> None:
        found = cafe.compare(path, methods=IMAGES_ALONE, shots=1, seeds=1, runs=tmp_path / "runs")
        assert [result.method for result in found.record.results] == IMAGES_ALONE
        cafe.write_report([tmp_path / "runs"], tmp_path / "page.html")

    def test_equal_names_with_texts_of_their_own(self, tmp_path: Path) -> None:
        header = make_header(width=16, text_features=draw_texts(3), class_names=("a", "b", "b"))
        path = tmp_path / "cache" / "noise" / "tiny.none.h5"
        blocks = {s: [make_block(12, 16, start=n)] for n, s in enumerate(("train", "test"))}
        write_cache(path, header, blocks)
        record = cafe.fit(path, method="zero-shot", shots=1, seeds=1, runs=None)
        assert record.results[0].method == "zero-shot"
