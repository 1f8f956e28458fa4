"""`cafe datasets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import options as opt
from ..output import print_json, print_table, say

if TYPE_CHECKING:
    from cafe.datasets import DatasetInfo


def datasets(data_root: opt.DataRoot = None, as_json: opt.Json = False) -> None:
    """List the datasets that cafe knows, and which are present.

    Example: cafe datasets --data-root ~/data
    """
    from cafe.datasets import list_datasets

    infos = list_datasets(data_root)
    if as_json:
        print_json(list(map(_values, infos)))
        return
    headers = ["dataset", "classes", "train / val / test", "present", "split", "--download"]
    print_table([*headers, "source"], list(map(_cells, infos)), numbers=(1, 2))
    say("", "Any folder of images (<class>/*.jpg) or CSV/JSONL manifest is a dataset too.")


def _values(info: DatasetInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "classes": info.classes,
        "present": info.present,
        "images": info.images and str(info.images),
        "split": info.split,
        "source": info.url,
        "download": info.can_download,
    }


def _cells(info: DatasetInfo) -> list[str]:
    return [
        info.name,
        str(info.classes),
        " / ".join(f"{size:,}" for size in info.sizes),
        "yes" if info.present else "no",
        info.split or "-",
        "yes" if info.can_download else "-",
        info.url,
    ]
