"""`cafe cache`: what is in the cache folder, and what comes into it from elsewhere."""

from __future__ import annotations

import json
from typing import Any

import typer

from cafe.errors import CafeError

from . import cache_files, importing
from .cache_summary import summary
from .options import CacheHome, CacheName, Json, open_cache, say

app = typer.Typer(
    help="List, show, check, remove, export, import and merge feature caches.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("ls")
def list_(cache: CacheHome = None, as_json: Json = False) -> None:
    """List the caches of the cache folder, newest first.

    Example: cafe cache ls
    """
    from cafe.store import FeatureCache
    from cafe.store.paths import cache_folder, cache_name, list_caches

    home = cache_folder(cache)
    rows: list[dict[str, Any]] = []
    for path in list_caches(home):
        try:
            rows.append({"name": cache_name(path), **summary(FeatureCache.open(path))})
        except CafeError as error:
            say(f"cafe: {error}")
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo(f"no caches in '{home}'; 'cafe extract --dataset digits' makes one.")
        return
    from .tables import print_table

    print_table(
        ["cache", "classes", "train / val / test", "D", "prompts", "views", "MB", "made"],
        [
            [
                row["name"],
                str(row["classes"]),
                " / ".join(f"{row['images'].get(s, 0):,}" for s in ("train", "val", "test")),
                str(row["width"]),
                str(row["prompts"]),
                str(row["views"]),
                f"{row['bytes'] / 1e6:.1f}",
                row["created"],
            ]
            for row in rows
        ],
        numbers=(1, 2, 3, 4, 5, 6),
    )


@app.command("show")
def show(cache_argument: CacheName = None, cache: CacheHome = None, as_json: Json = False) -> None:
    """Show what a cache holds and how it was made.

    Example: cafe cache show digits/nano.glyphs
    """
    opened = open_cache(cache_argument, cache, None, None)
    header = opened.header
    details = {
        **summary(opened),
        "source": header.source,
        "logit_scale": header.logit_scale,
        "logit_bias": header.logit_bias,
        "class_names": list(header.class_names),
        "sentences": [list(row) for row in header.sentences],
        "key": dict(header.key),
        "versions": dict(header.versions),
        "skipped": [list(row) for row in header.skipped],
        "missing": list(header.missing),
    }
    if as_json:
        typer.echo(json.dumps(details))
        return
    for name, value in details.items():
        if name in ("class_names", "sentences", "skipped", "missing"):
            _show_list(name, value)
        elif isinstance(value, dict):
            inner = [f"  {key}: {json.dumps(part)}" for key, part in value.items()]
            typer.echo("\n".join([f"{name}:", *inner]))
        else:
            typer.echo(f"{name}: {value}")


_SHOWN = 20


def _show_list(name: str, values: list[Any]) -> None:
    typer.echo(f"{name}: {len(values)}")
    for value in values[:_SHOWN]:
        typer.echo(f"  {value if isinstance(value, str) else ' | '.join(value)}")
    if len(values) > _SHOWN:
        typer.echo(f"  ... and {len(values) - _SHOWN} more; --json lists all")


app.command("import")(importing.import_)
app.command("verify")(cache_files.verify)
app.command("rm")(cache_files.remove)
app.command("export")(cache_files.export)
app.command("merge")(cache_files.merge)
