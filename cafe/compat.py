"""Importing what may not be there or not fit: torchvision, open_clip, pandas; knows no model.

A torchvision built for CUDA, beside a CPU-only torch, cannot load its compiled operators, and then
`import torchvision` stops at "operator torchvision::nms does not exist". Neither the transforms nor
the dataset classes use those operators, so here their names are declared (without implementations)
and the import is tried again. Where the import works, nothing is touched.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from cafe.errors import InputError, WeightsError, how_to_install, raise_as

# Every operator for which torchvision registers a fake without asking whether it has been loaded.
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # a torch Library takes its declarations with it when it is collected


def _declare_operators() -> None:
    torch_library: Any = importlib.import_module("torch.library")
    library = torch_library.Library("torchvision", "DEF")
    for schema in _OPERATORS:
        library.define(schema)
    _kept.append(library)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or _kept:
            raise
    _declare_operators()
    return importlib.import_module(name)


def _import_or_raise(name: str, package: str) -> ModuleType:
    advice = f"install {package} in a version that fits the installed torch"
    faults = (ImportError, RuntimeError, OSError)
    with raise_as(WeightsError, f"cannot import {name}", advice, faults):
        return _import(name)


def import_torchvision() -> ModuleType:
    """Import torchvision, also beside a torch that its compiled operators do not fit.

    Returns
    -------
    module
        `torchvision`, with its `datasets` and `transforms`.

    Raises
    ------
    WeightsError
        If it is not installed or cannot be imported.
    """
    return _import_or_raise("torchvision", "torchvision")


def import_open_clip() -> ModuleType:
    """Import open_clip, also beside a torchvision that does not fit the installed torch.

    Returns
    -------
    module
        `open_clip`.

    Raises
    ------
    WeightsError
        If it is not installed or cannot be imported.
    """
    return _import_or_raise("open_clip", "open_clip_torch")


def import_timm() -> Any:
    """timm, which open_clip needs and which needs torchvision."""
    import_open_clip()
    return _import_or_raise("timm", "timm")


def import_pandas() -> Any:
    """Import pandas, which cafe needs for tables alone.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise InputError(
            f"a DataFrame needs pandas, which is not installed: {how_to_install('pandas')}."
        ) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the warnings and log lines of libraries; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
