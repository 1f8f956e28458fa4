"""The command of a run as its record tells it, so that it makes the run again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cafe.errors import escape_bytes

if TYPE_CHECKING:
    import typer

    from cafe.store import FeatureCache

_CHOOSE_CACHES = {"cache_argument", "caches", "cache", "dataset", "model"}


def recorded_command(
    context: typer.Context,
    caches: Sequence[FeatureCache],
    pool: FeatureCache | str | None = None,
) -> str:
    """The options that were given, with the caches that they meant, each as `FILE@DIGEST`."""
    words = ["cafe", str(context.info_name), *map(cache_with_digest, caches)]
    for parameter in context.command.params:
        name = str(parameter.name)
        given = getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        if given and name == "pool" and pool is not None and not isinstance(pool, str):
            words += [parameter.opts[0], cache_with_digest(pool)]
        elif given and not (caches and name in _CHOOSE_CACHES):
            words += _words(parameter.opts[0], context.params[name])
    return escape_bytes(shlex.join(words))


def _words(option: str, value: Any) -> list[str]:
    if value is True:
        return [option]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for part in values for word in (option, str(part))]


def cache_with_digest(cache: FeatureCache) -> str:
    """A cache as `open_cache` finds it, as long as its content is the same."""
    return f"{cache.path}@{cache.content_sha256[:_DIGITS]}"


_DIGITS = 16
