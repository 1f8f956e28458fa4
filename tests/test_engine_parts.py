"""Parts of the engine: gradients, draws, the optimiser's schedule, precision, memory in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cafe import devices
from cafe.devices import bf16_speedup, resolve_precision
from cafe.engine import Architecture, Batch, BatchOrder, Workspace, linear_weights
from cafe.engine.chunks import budget_bytes, free_bytes
from cafe.engine.optimizer import cosine
from cafe.errors import InputError
from cafe.methods.clip_adapter.architecture import VisualAdapter

CPU = torch.device("cpu")


@pytest.mark.parametrize("final_relu", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_gradients_by_hand_equal_autograd_in_float64(final_relu: bool, normalized: bool) -> None:
    torch.manual_seed(0)
    streams, runs, rows, width, hidden, classes = 2, 3, 12, 16, 4, 5
    architecture = VisualAdapter(hidden, final_relu=final_relu, learn_ratio=True)
    x = torch.randn(streams, rows, width).double()
    x = x / x.norm(dim=-1, keepdim=True) if normalized else x
    w = torch.nn.functional.normalize(torch.randn(classes, width).double(), dim=-1)
    params = {
        "down": 0.3 * torch.randn(streams, runs, hidden, width).double(),
        "up": 0.3 * torch.randn(streams, runs, hidden, width).double(),
        "ratio_u": 0.05 * torch.randn(streams, runs, 1, 1).double(),
    }
    batch = Batch({"x": x}, torch.randint(classes, (streams, rows)), {}, {}, w, 30.0, 1.0)
    by_hand = {name: torch.empty_like(value) for name, value in params.items()}
    by_autograd = {name: torch.empty_like(value) for name, value in params.items()}
    work = Workspace(CPU, torch.float64)
    architecture.gradients(params, batch, by_hand, work)
    Architecture.gradients(architecture, params, batch, by_autograd, work)
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-10, atol=1e-12)


def gradients(
    architecture: VisualAdapter, dtype: torch.dtype, product: torch.dtype, how: str
) -> Tensor:
    """The gradients of one problem, in one vector."""
    torch.manual_seed(0)
    streams, runs, rows, width, classes = 2, 3, 40, 64, 10
    x = torch.nn.functional.normalize(torch.randn(streams, rows, width), dim=-1)
    w = torch.nn.functional.normalize(0.5 + torch.randn(classes, width), dim=-1)
    shape = streams, runs, architecture.bottleneck, width
    params = {n: (0.3 * torch.randn(shape)).to(dtype) for n in ("down", "up")}
    ratio = torch.rand(streams, runs, 1, 1).to(dtype)
    y = torch.randint(classes, (streams, rows))
    batch = Batch({"x": x.to(dtype)}, y, {"ratio": ratio}, {}, w.to(dtype), 100.0, 0.0)
    grads = {name: torch.empty_like(value) for name, value in params.items()}
    method = VisualAdapter.gradients if how == "hand" else Architecture.gradients
    method(architecture, params, batch, grads, Workspace(CPU, product))
    return torch.cat([value.flatten() for value in grads.values()]).double()


@pytest.mark.parametrize("final_relu", [True, False])
def test_gradients_by_hand_are_no_less_exact_than_autograd(final_relu: bool) -> None:
    architecture = VisualAdapter(8, final_relu=final_relu)
    exact = gradients(architecture, torch.float64, torch.float64, "autograd")
    for product in (torch.float32, torch.bfloat16):
        by_hand = gradients(architecture, torch.float32, product, "hand")
        by_autograd = gradients(architecture, torch.float32, product, "autograd")
        assert 0 < (by_hand - exact).norm() < 2 * (by_autograd - exact).norm()


def test_initial_weights_are_those_of_linear_layers() -> None:
    down, up = linear_weights(0, (128, 512), (512, 128))
    assert (down.shape, up.shape) == ((128, 512), (512, 128))
    layer = torch.nn.Linear(512, 128, bias=False)
    assert float(down.std()) == pytest.approx(float(layer.weight.detach().std()), rel=0.02)
    assert float(down.abs().max()) <= 512**-0.5
    assert torch.equal(down, linear_weights(0, (128, 512))[0])
    assert not torch.equal(down, linear_weights(1, (128, 512))[0])


def test_draws_neither_read_nor_move_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    linear_weights(0, (4, 4))
    first = BatchOrder(3, 10).epoch()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, BatchOrder(3, 10).epoch())


def test_batch_order_is_a_permutation_and_views_are_of_each_image() -> None:
    plain, viewed = BatchOrder(3, 10), BatchOrder(3, 10, views=4)
    for _ in range(2):
        rows, with_views = plain.epoch(), viewed.epoch()
        assert sorted(rows.tolist()) == list(range(10))
        assert torch.equal(with_views // 4, rows)


def test_cosine_is_torchs_schedule() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    for step in range(7):
        assert cosine(step, 7) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("speedup", "wanted"), [(6.0, "bf16"), (1.1, "fp32"), (0.3, "fp32")])
def test_auto_takes_what_the_machine_is_faster_at(
    speedup: float, wanted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(devices, "bf16_speedup", lambda: speedup)
    assert resolve_precision("auto", CPU) == wanted
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"


def test_the_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(devices, "bf16_speedup", lambda: 6.0)
    assert resolve_precision("auto", CPU) == "bf16"
    monkeypatch.setattr(devices, "bf16_speedup", lambda: 1.0)  # the machine is busy now
    assert resolve_precision("auto", CPU) == "bf16"
    (kept,) = tmp_path.glob("cafe/*.json")
    for damage in ("", "[1]", '{"a": "b"}', "{"):
        kept.write_text(damage)
        assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("value", ["kept", "./kept", "~/kept", ""])
def test_a_relative_cache_home_is_ignored(
    value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert devices.user_cache_folder() == tmp_path / ".cache/cafe"


def test_a_gpu_takes_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "bf16_speedup", lambda: 6.0)
    assert resolve_precision("auto", torch.device("cuda", 0)) == "fp32"


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(devices, "bf16_speedup", lambda: 6.0)
    assert resolve_precision("auto", CPU) == "bf16"


def test_speedup_is_measured_and_unknown_precisions_are_refused() -> None:
    assert bf16_speedup() > 0
    with pytest.raises(InputError, match="precision must be auto, fp32 or bf16; got 'fp8'"):
        resolve_precision("fp8", CPU)  # type: ignore[arg-type]


def test_memory() -> None:
    assert budget_bytes(CPU, 7) == 7
    assert 0 < budget_bytes(CPU, None) <= free_bytes(CPU)
