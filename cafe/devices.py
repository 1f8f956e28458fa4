"""The machine: which device computes, and in which precision it is fastest."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from cafe.compiled import user_cache_folder
from cafe.errors import DeviceError, InputError

Precision = Literal["fp32", "bf16", "fp16"]
"""Of an encoder's weights."""

ProductPrecision = Literal["auto", "fp32", "bf16"]
"""Of the engine's matrix products."""

BF16_GAIN = 1.5
"""bf16 is taken on a CPU whose matrix products are at least this much faster in it: a CPU without
AVX512-BF16 or AMX emulates bf16 and is slower, one with them is 3 to 7 times faster."""


def resolve_device(name: str = "auto") -> torch.device:
    """Turn a device name into a device that is there.

    Parameters
    ----------
    name : str
        "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "cuda:N".

    Returns
    -------
    torch.device

    Raises
    ------
    DeviceError
        If CUDA is asked for and absent.
    InputError
        If the name is no device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N.")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DeviceError(
            f"device '{name}' was asked for, but PyTorch {torch.__version__} sees {count} CUDA "
            'devices; use device="cpu", or install a CUDA build of PyTorch.'
        )
    return device


def out_of_memory(what: str) -> DeviceError:
    """The error where a GPU's memory is too small even for `what`."""
    return DeviceError(
        f'the GPU has no memory for {what}; end what else uses it, or use device="cpu".'
    )


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's threads per operation, put back on leaving; threads started inside inherit it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def bf16_speedup() -> float:
    """How many times faster bfloat16 products are than float32 ones on this machine's CPU.

    The time is that of one thread alone, so that other work on the machine does not change it.
    """
    device = torch.device("cpu")
    with torch_threads(1):
        fp32 = product_rate(device, torch.float32, clock=time.thread_time)
        return product_rate(device, torch.bfloat16, clock=time.thread_time) / fp32


def product_rate(
    device: torch.device,
    dtype: torch.dtype,
    size: int = 512,
    tries: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measured rate of square matrix products, the best of a few tries.

    Parameters
    ----------
    device : torch.device
        Where to measure.
    dtype : torch.dtype
        Type of the operands.
    size : int
        Rows and columns of both operands.
    tries : int
        How often to measure, after one try that warms up.
    clock : callable
        Gives seconds.

    Returns
    -------
    float
        Floating-point operations per second.
    """
    a = torch.ones(size, size, dtype=dtype, device=device)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(tries + 1):
        start = clock()
        for _ in range(4):
            torch.mm(a, a, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, (clock() - start) / 4)
    return 2 * size**3 / best


def resolve_precision(precision: ProductPrecision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Precision of the engine's matrix products; weights are float32 in both.

    Parameters
    ----------
    precision : {"auto", "fp32", "bf16"}
        "auto" takes bf16 on a CPU where it is faster by `BF16_GAIN`. This is measured once on a
        machine and kept in the user's cache folder, so that the same command gives the same
        numbers. On a GPU it is fp32: there a step waits for its calls more than for its products,
        and bf16 has more calls (on an H100, 27 runs of 66 classes took 0.3 s in fp32, 0.5 in bf16).
    device : torch.device
        Where the products are computed.

    Raises
    ------
    InputError
        If the precision is none of the three.
    """
    if precision == "auto":
        is_worth = device.type == "cpu" and _kept_speedup() >= BF16_GAIN
        return "bf16" if is_worth else "fp32"
    if precision in ("fp32", "bf16"):
        return precision
    raise InputError(f"precision must be auto, fp32 or bf16; got '{precision}'.")


def _kept_speedup() -> float:
    """`bf16_speedup`, measured once for a processor and a version of PyTorch."""
    file = user_cache_folder() / "bf16_speedup.json"
    name = f"{_processor()}, torch {torch.__version__}"
    kept = _read_numbers(file)
    if name not in kept:
        kept[name] = round(bf16_speedup(), 2)
        with contextlib.suppress(OSError):  # a home that cannot be written: measured every time
            file.parent.mkdir(parents=True, exist_ok=True)
            # not in one step: a torn file is read as an empty one
            file.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return kept[name]


def _read_numbers(file: Path) -> dict[str, float]:
    """The numbers of a JSON file by name; none where it is absent or damaged."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        values = json.loads(file.read_text(encoding="utf-8")).items()
        return {name: float(value) for name, value in values if isinstance(value, int | float)}
    return {}


def _processor() -> str:
    """The name of the CPU, with its instruction set."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux names the model here only
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        models = [line.partition(":")[2] for line in text.splitlines() if "model name" in line]
        name = models[0].strip() if models else name
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def encoder_precision(precision: str, device: torch.device) -> Precision:
    """Precision of an encoder's weights.

    Parameters
    ----------
    precision : str
        "auto", "fp32", "bf16" or "fp16". "auto" is fp16 on CUDA, bf16 on a CPU that is faster in
        it, else fp32.
    device : torch.device
        Where the encoder runs.

    Raises
    ------
    InputError
        If the precision is none of these, or fp16 on a CPU.
    """
    if precision == "auto":
        return "fp16" if device.type == "cuda" else resolve_precision("auto", device)
    if precision not in get_args(Precision):
        raise InputError(f"unknown precision '{precision}'; use auto, fp32, bf16 or fp16.")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs CUDA; use auto, bf16 or fp32 on a CPU.")
    return cast("Precision", precision)
