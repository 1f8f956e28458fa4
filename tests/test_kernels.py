"""Fused passes built on this machine: they give what PyTorch's own give, or are not taken."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cafe import compiled
from cafe.compiled import load_library
from cafe.devices import torch_threads
from cafe.engine import Run, Trained, Workspace, train
from cafe.engine import trainer as trainer_module
from cafe.engine.architecture import Architecture, Batch
from cafe.engine.kernels import Kernels, load_kernels
from cafe.engine.optimizer import KernelAdamW, Recipe, StackedAdamW
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.clip_adapter.architecture import VisualAdapter
from cafe.methods.clip_adapter.counterfactual_architecture import CounterfactualAdapter

CPU = torch.device("cpu")
LOW = [torch.float32, torch.bfloat16]


@pytest.fixture
def kernels() -> Kernels:
    found = load_kernels()
    if found is None:
        pytest.skip("no C++ compiler that builds them")
    return found


@pytest.fixture
def fresh() -> Iterator[None]:
    """Kernels are looked for anew, and again after the test."""
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


def gradients(
    architecture: VisualAdapter,
    dtype: torch.dtype,
    work: Workspace,
    kind: torch.dtype,
    *,
    rows: int = 37,
    width: int = 70,
    classes: int = 21,
) -> Tensor:
    """The gradients of one problem in one vector; in float64 autograd's."""
    torch.manual_seed(0)
    streams, runs = 2, 3  # and other numbers are no multiples of a vector's length
    x = torch.nn.functional.normalize(torch.randn(streams, rows, width), dim=-1).to(dtype)
    w = torch.nn.functional.normalize(0.5 + torch.randn(classes, width), dim=-1).to(dtype)
    shape = streams, runs, architecture.bottleneck, width
    params = {name: (0.3 * torch.randn(shape)).to(dtype) for name in ("down", "up")}
    scalars = {"ratio": torch.rand(streams, runs, 1, 1).to(dtype)}
    batch = Batch({"x": x}, torch.randint(classes, (streams, rows)), scalars, {}, w, 100.0, 0.0)
    grads = {name: torch.empty_like(value, dtype=kind) for name, value in params.items()}
    method = Architecture if dtype == torch.float64 else VisualAdapter
    method.gradients(architecture, params, batch, grads, work)
    return torch.cat([value.flatten() for value in grads.values()]).double()


@pytest.mark.parametrize("final_relu", [True, False])
@pytest.mark.parametrize("product", LOW)
def test_gradients_are_as_exact_as_without(
    kernels: Kernels, product: torch.dtype, final_relu: bool
) -> None:
    architecture = VisualAdapter(8, final_relu=final_relu)
    wide = torch.float64
    exact = gradients(architecture, wide, Workspace(CPU, wide), wide)
    without = gradients(architecture, torch.float32, Workspace(CPU, product), torch.float32)
    fused = gradients(architecture, torch.float32, Workspace(CPU, product, kernels), product)
    assert 0 < (fused - exact).norm() < 1.5 * (without - exact).norm()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("final_relu", [True, False])
@pytest.mark.parametrize(
    ("rows", "width", "bottleneck", "classes"),
    [(37, 96, 8, 21), (100, 64, 40, 70), (1, 32, 1, 1), (64, 32, 33, 2), (270, 32, 8, 300)],
)
def test_gradients_by_tiles_are_as_exact_as_without(
    kernels: Kernels, rows: int, width: int, bottleneck: int, classes: int, final_relu: bool
) -> None:
    if not kernels.tiles:
        pytest.skip("no processor that multiplies tiles")
    architecture = VisualAdapter(bottleneck, final_relu=final_relu)
    low, wide, counted = torch.bfloat16, torch.float64, Counted(kernels)
    shape = {"rows": rows, "width": width, "classes": classes}
    exact = gradients(architecture, wide, Workspace(CPU, wide), wide, **shape)
    without = gradients(architecture, torch.float32, Workspace(CPU, low), torch.float32, **shape)
    other = torch.randn(64, 64).to(low)
    before = other @ other  # torch multiplies tiles too, of a shape of its own
    fused = gradients(architecture, torch.float32, Workspace(CPU, low, counted), low, **shape)
    assert counted.calls == ["pack_classes", "visual_gradients"]
    assert (fused - exact).norm() <= 1.5 * (without - exact).norm()
    assert torch.equal(other @ other, before)


@pytest.mark.parametrize("product", LOW)
def test_steps_are_those_of_adamw(kernels: Kernels, product: torch.dtype) -> None:
    recipes = [Recipe(lr=1e-3), Recipe(lr=1e-3), Recipe(lr=1e-2, weight_decay=0.5)]
    torch.manual_seed(0)
    start = torch.randn(1, 3, 5, 7)
    params, theirs = {"a": start.clone()}, {"a": start.clone()}
    grads = {"a": torch.zeros(start.shape, dtype=product)}
    wide = {"a": torch.zeros(start.shape)}
    work = Workspace(CPU, product, kernels)
    fused = KernelAdamW(params, grads, recipes, frozenset(), work, kernels)
    stacked = StackedAdamW(theirs, wide, recipes, frozenset())
    for step in range(20):
        grads["a"].normal_()
        wide["a"].copy_(grads["a"])
        for optimizer in (fused, stacked):
            optimizer.set_rate(1 - step / 20)
            optimizer.step()
    assert not torch.equal(params["a"], start)
    torch.testing.assert_close(params["a"], theirs["a"], rtol=1e-5, atol=1e-6)
    assert torch.equal(work.cast("a", params["a"]), params["a"].to(product))


def test_what_diverges_shows(kernels: Kernels) -> None:
    count = 33
    values = [torch.ones(count) for _ in range(4)]
    values[1][7] = float("nan")
    numbers = 1.0, 0.9, 0.999, 1e-3, 1.0, 1e-8
    kernels("adamw", torch.float32, *values, values[0], count, *numbers)
    assert values[0].isnan().nonzero().tolist() == [[7]]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("width", [32, 70])
def test_gradients_of_what_diverged_show(kernels: Kernels, width: int) -> None:
    architecture, low = VisualAdapter(8), torch.bfloat16
    whole = gradients(architecture, torch.float32, Workspace(CPU, low, kernels), low, width=width)
    assert whole.isfinite().all()
    work = Workspace(CPU, low, kernels)
    work.mirrors["up"] = torch.full((2, 3, 8, width), torch.nan, dtype=low)
    assert gradients(architecture, torch.float32, work, low, width=width).isnan().any()


def fit(precision: str) -> list[Trained]:
    """A few runs of several seeds and widths, on four classes."""
    torch.manual_seed(1)
    text = ClassText(torch.randn(4, 1, 32), ("a", "b", "c", "d"), 50.0)
    sets = [TrainingSet(Features(torch.randn(24, 32), torch.arange(24) % 4), text)]
    runs = [
        Run(VisualAdapter(hidden), 0, seed, Recipe(epochs=3, batch_size=10), {"ratio": ratio})
        for hidden in (2, 8)
        for seed in (0, 1)
        for ratio in (0.2, 0.7)
    ]
    return train(runs, sets, precision=precision)  # type: ignore[arg-type]


@pytest.mark.usefixtures("one_thread")
def test_runs_end_where_they_end_without(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, plain_bf16 = fit("fp32"), fit("bf16")
    monkeypatch.setattr(trainer_module, "WORTH", 0)
    monkeypatch.setattr(trainer_module, "load_kernels", lambda: kernels)
    for one, other, rough in zip(fit("fp32"), plain, plain_bf16, strict=True):
        assert one.run == other.run
        for name, value in one.tensors.items():
            torch.testing.assert_close(value, other.tensors[name], rtol=1e-4, atol=1e-5)
            assert not torch.equal(value, rough.tensors[name])  # the comparison can fail
    for one, other in zip(fit("bf16"), plain_bf16, strict=True):
        for name, value in one.tensors.items():
            torch.testing.assert_close(value, other.tensors[name], rtol=0.1, atol=3e-3)


def test_a_few_images_are_worth_kernels_where_many_weights_are_trained() -> None:
    text = ClassText(torch.eye(4, 32)[:, None], ("a", "b", "c", "d"), 50.0)
    sets = [TrainingSet(Features(torch.randn(4, 32), torch.arange(4)), text)]
    narrow, wide = (Run(VisualAdapter(width), recipe=Recipe(epochs=20)) for width in (2, 16384))
    assert not trainer_module._is_worth([narrow] * 9, sets)
    assert trainer_module._is_worth([wide], sets)
    without = Run(VisualAdapter(16384, learn_ratio=True), recipe=wide.recipe)
    assert not trainer_module._is_worth([without], sets)  # it takes none


class Counted(Kernels):
    """Kernels that count their calls."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__(kernels._library)
        self.calls: list[str] = []

    def __call__(self, name: str, dtype: torch.dtype, *arguments: Tensor | float) -> None:
        self.calls.append(name)
        super().__call__(name, dtype, *arguments)


def single(threads: int) -> Tensor:
    """The weights of one run of two classes, trained with so many threads of torch."""
    torch.manual_seed(1)
    text = ClassText(torch.randn(2, 1, 32), ("a", "b"), 50.0)
    sets = [TrainingSet(Features(torch.randn(24, 32), torch.arange(24) % 2), text)]
    run = Run(VisualAdapter(8), recipe=Recipe(epochs=3, batch_size=10), scalars={"ratio": 0.2})
    with torch_threads(threads):
        return train([run], sets, precision="bf16")[0].tensors["up"]


def test_a_single_run_takes_them_with_several_threads_too(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "WORTH", 0)
    counted = Counted(kernels)
    monkeypatch.setattr(trainer_module, "load_kernels", lambda: counted)
    alone = single(1)
    once = len(counted.calls)
    assert torch.equal(single(2), alone)  # so small a product takes one thread
    assert len(counted.calls) == 2 * once > 0
    monkeypatch.setattr(trainer_module, "SHARED", {torch.bfloat16: 0})
    torch.testing.assert_close(single(2), alone, rtol=0.1, atol=3e-3)


def test_heads_with_other_gradients_do_without() -> None:
    assert VisualAdapter(8).takes_kernels()
    assert not VisualAdapter(8, learn_ratio=True).takes_kernels()
    assert not CounterfactualAdapter(8, weight=1.0).takes_kernels()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("trouble", ["unwanted", "no compiler", "it fails", "no home"])
def test_training_goes_on_without(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    if trouble == "unwanted":
        monkeypatch.setenv("CAFE_KERNELS", "0")
    elif trouble == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    elif trouble == "it fails":
        monkeypatch.setattr(shutil, "which", lambda _: str(compiler))
    else:
        (tmp_path / "home").write_text("a file")
    assert load_kernels() is None
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.usefixtures("fresh")
def test_they_are_built_once(
    kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_kernels.cache_clear()
    assert load_kernels() is not None
    (library,) = tmp_path.rglob("*.so")
    assert [path.name for path in library.parent.iterdir()] == [library.name]
    load_kernels.cache_clear()
    monkeypatch.setattr(compiled.subprocess, "run", None)  # a second build would fail
    assert load_kernels() is not None


@pytest.mark.usefixtures("fresh", "kernels")
@pytest.mark.parametrize("writable", [False, True])
def test_what_is_damaged_is_built_anew_and_what_others_may_write_is_not_loaded(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.cpp").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "half.cpp"
    assert load_library(source) is not None
    (library,) = tmp_path.rglob("*.so")
    whole = library.read_bytes()
    library.unlink()  # it is loaded: what is in it must not change
    library.write_bytes(whole[: len(whole) // 2])  # to load it would end the program
    assert load_library(source, build=False) is None
    if writable:
        library.parent.chmod(0o775)
    assert (load_library(source) is None) == writable
    assert (library.read_bytes() == whole) == (not writable)
