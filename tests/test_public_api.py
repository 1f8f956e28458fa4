"""The names that `import cafe` promises: exact, importable, documented, and their examples run."""

from __future__ import annotations

import ast
import doctest
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_run import digits_run

import cafe

NAMES = [
    "AdapterClassifier",
    "CLIPFeatures",
    "CafeError",
    "Extractor",
    "FeatureCache",
    "Model",
    "Predictor",
    "check",
    "compare",
    "export_head",
    "fit",
    "grid",
    "import_features",
    "load_dataset",
    "load_encoder",
    "load_head",
    "load_model",
    "load_record",
    "load_task",
    "meta_train",
    "next_images",
    "relabel",
    "train",
    "write_report",
]
ROOT = Path(__file__).parents[1]


def test_the_list_is_exact() -> None:
    assert cafe.__all__ == NAMES
    assert dir(cafe) == NAMES
    with pytest.raises(AttributeError, match="no attribute 'adaptor'"):
        _ = cafe.adaptor


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name: str) -> None:
    thing = getattr(cafe, name)
    text = inspect.getdoc(thing) or ""
    assert len(text) > 40
    takes = inspect.signature(thing).parameters if name != "CafeError" else {}
    if takes:
        assert "Parameters\n----------" in text or "Attributes\n----------" in text


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "cafe/__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == cafe._MODULES
    assert sorted(seen) == NAMES


def test_no_module_hides_a_name() -> None:
    modules = {path.stem for path in (ROOT / "cafe").iterdir()}
    assert not modules & set(NAMES)


EXAMPLES = [
    "cafe.curation.next_images.next_images",
    "cafe.curation.check.check",
    "cafe.datasets.class_order.first_pairs",
    "cafe.datasets.class_order.in_class_order",
    "cafe.study.classifier.AdapterClassifier",
    "cafe.study.compare.compare",
    "cafe.datasets.text_files.distinct_names",
    "cafe.inference.export.export_head",
    "cafe.inference.model.Model",
    "cafe.inference.model.load_model",
    "cafe.inference.train.train",
    "cafe.extract.extractor.Extractor",
    "cafe.extract.transformer.CLIPFeatures",
    "cafe.study.fit.fit",
    "cafe.features.pool.describe_pool",
    "cafe.features.pool.join_learning",
    "cafe.study.grid.run.grid",
    "cafe.results.run_folders.load_record",
    "cafe.results.saved_head.SavedHead",
    "cafe.study.meta_train.meta_train",
    "cafe.methods.checks.parse_bottleneck",
    "cafe.methods.validation.pick_best",
    "cafe.inference.predictor.Predictor",
    "cafe.study.calibration.cautious_temperature",
    "cafe.store.key.say_items",
    "cafe.store.read.FeatureCache",
    "cafe.store.split_dataset.CacheSplit",
    "cafe.datasets.packed_sources.find_packed_source",
    "cafe.datasets.shards.expand",
]


def test_every_module_with_an_example_is_here() -> None:
    files = [path for path in (ROOT / "cafe").rglob("*.py") if ">>> " in path.read_text()]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert modules == {name.rpartition(".")[0] for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = digits_run(tmp_path_factory)
    for folder in ("cache", "photos", "runs"):
        (tmp_path / folder).mkdir()
        for entry in (work / folder).iterdir() if "Extractor" not in name else ():
            (tmp_path / folder / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    module, _, attribute = name.rpartition(".")
    home = __import__(module, fromlist=[attribute])
    names = {**vars(home), "cafe": cafe, "np": np, "torch": torch}
    tests = doctest.DocTestFinder(recurse=False).find(getattr(home, attribute), name, globs=names)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        assert test.examples
        assert runner.run(test).failed == 0, name
