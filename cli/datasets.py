"""`cafe datasets`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def datasets(
    data_root: Annotated[
        Path | None, typer.Option(help="Where datasets lie [default: $CAFE_DATA, else ./data].")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the datasets that cafe knows by name, and which are present.

    Example: cafe datasets --data-root ~/data
    """
    from cafe.datasets import list_datasets

    found = list_datasets(data_root)
    if as_json:
        rows = [
            {
                "name": info.name,
                "classes": info.classes,
                "present": info.present,
                "images": info.images and str(info.images),
                "split": info.split,
                "source": info.url,
                "download": info.can_download,
            }
            for info in found
        ]
        typer.echo(json.dumps(rows))
        return
    from .tables import print_table

    print_table(
        ["dataset", "classes", "train / val / test", "present", "split", "--download", "source"],
        [
            [
                info.name,
                str(info.classes),
                " / ".join(f"{size:,}" for size in info.sizes),
                "yes" if info.present else "no",
                info.split or "-",
                "yes" if info.can_download else "-",
                info.url,
            ]
            for info in found
        ],
        numbers=(1, 2),
    )
    typer.echo("\nAny folder of images (<class>/*.jpg) or CSV/JSONL manifest is a dataset too.")
