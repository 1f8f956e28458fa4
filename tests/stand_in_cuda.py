"""A stand-in for a CUDA device, for machines that have none.

Its tensors say `cuda:0`, keep their data in the CPU's memory, and refuse to meet tensors of the
CPU. So a tensor that was made on the wrong device, `.numpy()` of a device tensor, and a mask that
lies elsewhere are errors, as on a GPU. The arithmetic is the CPU's: results are equal, and speed,
memory and rounding of a GPU are not shown.

Tensors of the stand-in are known by their type, so worker threads see them too. What makes a device
tensor out of nothing or out of a CPU tensor is replaced while the stand-in is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
FREE = 8 << 30
"""Bytes of memory that the device says are free."""

_FACTORIES = [
    *("arange", "as_tensor", "empty", "empty_like", "eye", "full", "full_like", "linspace"),
    *("ones", "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm"),
    *("scalar_tensor", "tensor", "zeros", "zeros_like"),
]
_CUDA = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "mem_get_info": lambda *_: (FREE, FREE),
    "get_device_name": lambda *_: "stand-in",
    "get_device_capability": lambda *_: (9, 0),
    "is_bf16_supported": lambda *_, **__: True,
    "is_current_stream_capturing": lambda: False,
    "synchronize": lambda *_: None,
    "empty_cache": lambda: None,
    "device": lambda _: nullcontext(),
    "Stream": lambda device: _Stream(device),
    "default_stream": lambda *_: _Stream.default,
    "current_stream": lambda *_: _Stream.current,
    "set_stream": lambda stream: _Stream.set(stream),
    "stream": lambda _: nullcontext(),
    "CUDAGraph": lambda: StandInGraph(),
    "graph": lambda graph, **how: StandInGraph.capture(graph, **how),
    "_lazy_init": lambda: None,
}
_MAY_MIX = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
_INDEXING = ("aten::index", "aten::_index_put", "aten::_unsafe_index")  # indices may lie elsewhere
_TO, _CPU, _TO_CUDA = Tensor.to, Tensor.cpu, Tensor.cuda
_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
_GROUP = torch.optim.Optimizer._group_tensors_by_device_and_dtype
_ONE_HOT = torch.nn.functional.one_hot


class _Stream:
    default: ClassVar[_Stream]
    current: ClassVar[_Stream]

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @classmethod
    def set(cls, stream: _Stream) -> None:
        cls.current = stream

    def wait_stream(self, other: _Stream) -> None:
        """There is nothing to wait for: the stand-in computes at once."""


_Stream.default = _Stream.current = _Stream(DEVICE)


class DeviceError(RuntimeError):
    """Tensors of two devices met."""


class StandInGraph:
    """A CUDA graph: the operations that were asked for in a capture, on the tensors they had.

    A capture computes nothing on a GPU. Here it does, so that the first replay has nothing to do.
    """

    _capturing: ClassVar[StandInGraph | None] = None

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self._is_new = True

    @classmethod
    def record(cls, func: Callable[..., Any], args: Any, kwargs: Any, out: Any) -> None:
        if cls._capturing is not None:
            cls._capturing._calls.append((func, args, kwargs, out))

    @classmethod
    def refuse(cls, what: str) -> None:
        """Within a capture, refuse what waits for the GPU or copies from elsewhere."""
        if cls._capturing is not None:
            raise RuntimeError(f"CUDA error: {what} is not permitted when stream is capturing")

    @classmethod
    @contextmanager
    def capture(cls, graph: StandInGraph, *, stream: _Stream, **_: Any) -> Iterator[None]:
        if stream.device != DEVICE:
            raise AssertionError(f"what is asked of {DEVICE} is not captured on {stream.device}")
        before, cls._capturing = _Stream.current, graph
        _Stream.current = stream
        try:
            yield
            _Stream.current = before  # PyTorch too does this only where all went well
        finally:
            cls._capturing = None

    def replay(self) -> None:
        for func, args, kwargs, out in () if self._is_new else self._calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)
        self._is_new = False


class CudaTensor(Tensor):
    """A tensor that says it lies on the stand-in."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type[CudaTensor], inner: Tensor) -> CudaTensor:
        made: CudaTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="cpu",
            requires_grad=False,
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def numpy(self, **_: Any) -> Any:
        StandInGraph.refuse("a copy to the CPU")
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self) -> Any:
        StandInGraph.refuse("a copy to the CPU")
        return self.inner.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.inner!r})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (_TO, _CPU, _TO_CUDA):
            return _move(func, *args, **kwargs)
        if func is _ONE_HOT:  # made of C++ that asks for the true device
            return CudaTensor(func(_inner(args[0]), *args[1:], **kwargs))
        if func in _PRODUCTS and args[0].dim() == 1:
            # C++ would squeeze the result in place, and its tensor would keep the old shape
            return (args[0][None] @ args[1]).squeeze(-min(args[1].dim(), 2))
        name = getattr(func, "__name__", "")
        if "device" in kwargs or name.startswith("new_") or name in _FACTORIES:
            return _make(func, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        _refuse_two_devices(func, args, kwargs)
        here = {id(x.inner): x for x in tree_flatten((args, kwargs))[0] if _is_here(x)}
        if func is torch.ops.aten._local_scalar_dense.default:
            StandInGraph.refuse("a copy to the CPU")
        given = tree_map(_inner, args), tree_map(_inner, kwargs)
        out = func(*given[0], **given[1])
        StandInGraph.record(func, *given, out)
        if func is torch.ops.aten.copy_.default:
            return args[0]
        # what worked in place gives back the tensor that was given
        return tree_map(lambda x: _given(x, here) if isinstance(x, Tensor) else x, out)


def _given(out: Tensor, here: Mapping[int, Tensor]) -> Tensor:
    return here[id(out)] if id(out) in here else CudaTensor(out)


def _is_here(value: object) -> bool:
    return isinstance(value, CudaTensor)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, CudaTensor) else value


def _refuse_two_devices(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    elsewhere = [x for x in tensors if not _is_here(x) and x.dim()]  # a CPU scalar may meet any
    if func in _MAY_MIX or (func.name().startswith(_INDEXING) and _is_here(args[0])):
        return
    if elsewhere and len(elsewhere) < len(tensors):
        shapes = [f"{x.device} {tuple(x.shape)}" for x in tensors]
        raise DeviceError(f"{func}: {' meets '.join(shapes)}")


def _asks_for_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _make(func: Callable[..., Tensor], args: Any, kwargs: dict[str, Any]) -> Tensor:
    """A new tensor where `device` says, or where the tensor lies that it is made after."""
    device = kwargs.pop("device", None)
    kwargs.pop("pin_memory", None)  # asks the driver
    first = args[0] if args else None
    on = _asks_for_cuda(device) if device is not None else _is_here(first)
    if on or _is_here(first):
        kwargs["device"] = "cpu"
    elif device is not None:
        kwargs["device"] = device
    given = tree_map(_inner, args)
    made = func(*given, **kwargs)
    if on:
        StandInGraph.record(func, given, kwargs, made)
    return CudaTensor(made) if on else made


def _move(func: Any, tensor: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, `cuda` and `cpu`, from and to the stand-in."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    if func is not _TO:
        device = "cpu" if func is _CPU else "cuda"
    for value in rest:
        if isinstance(value, str | torch.device):
            device = value
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
    on = _is_here(tensor) if device is None else _asks_for_cuda(device)
    stays = on == _is_here(tensor) and dtype in (None, tensor.dtype)
    if stays and not kwargs.get("copy"):
        return tensor
    if on != _is_here(tensor):
        StandInGraph.refuse("a copy from one device to another")
    inner = _TO(_inner(tensor), dtype=dtype or tensor.dtype, copy=True)
    return CudaTensor(inner.detach()) if on else inner


def _maker(factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(factory)
    def made(*args: Any, **kwargs: Any) -> Tensor:
        return _make(factory, args, kwargs)

    return made


def _enter_no_grad(mode: Any) -> None:
    mode.before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)


def _exit_no_grad(mode: Any, *_: object) -> None:
    torch.set_grad_enabled(mode.before)


def _group_tensors(*args: Any) -> dict[tuple[Any, Any], Any]:
    """An optimiser's tensors by device and type, as their own `device` says."""
    groups = _GROUP(*args)
    here = any(map(_is_here, args[0][0]))
    return {(DEVICE if here else device, kind): of for (device, kind), of in groups.items()}


def _mover(func: Any) -> Callable[..., Tensor]:
    return lambda tensor, *rest, **kwargs: _move(func, tensor, *rest, **kwargs)


@contextmanager
def stand_in_cuda() -> Iterator[torch.device]:
    """Within it `cuda` is there.

    Examples
    --------
    >>> with stand_in_cuda() as cuda:
    ...     torch.zeros(3, device=cuda) + torch.ones(3)
    Traceback (most recent call last):
    stand_in_cuda.DeviceError: aten.add.Tensor: cuda:0 (3,) meets cpu (3,)
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _CUDA.items():
            patch.setattr(torch.cuda, name, value, raising=False)
        for name in _FACTORIES:
            patch.setattr(torch, name, _maker(getattr(torch, name)))
        for func in (_TO, _CPU, _TO_CUDA):
            patch.setattr(Tensor, func.__name__, _mover(func))
        replaced = "get_overwrite_module_params_on_conversion"  # not filled: the type is the device
        patch.setattr(torch.__future__, replaced, lambda: True)
        # tensors of inference mode count no versions, which a tensor in a tensor has to
        patch.setattr(torch.inference_mode, "__enter__", _enter_no_grad)
        patch.setattr(torch.inference_mode, "__exit__", _exit_no_grad)
        health = "_accelerator_graph_capture_health_check"  # asks the driver
        patch.setattr(torch.optim.Optimizer, health, lambda _: None, raising=False)
        patch.setattr(torch.optim.Optimizer, _GROUP.__name__, staticmethod(_group_tensors))
        yield DEVICE


@contextmanager
def some_cuda() -> Iterator[torch.device]:
    """The first GPU of the machine, or the stand-in where there is none."""
    if torch.cuda.is_available():
        yield DEVICE
        return
    with stand_in_cuda() as device:
        yield device
