"""What some methods need beside a cache, found for them from the words on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.errors import InputError
from cafe.methods.catalog import find_method, methods_that_need

if TYPE_CHECKING:
    from cafe.store import FeatureCache

EncoderFolder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="Where the cache's encoder is, for coop and cpl, if it came from a folder or a file.",
        show_default=False,
    ),
]
EncoderWeights = Annotated[
    str | None,
    typer.Option("--pretrained", help="Weights of --encoder: a tag or a file.", show_default=False),
]

Needs = Callable[["FeatureCache"], dict[str, Any]]
"""Settings of methods that no option gives, made for a cache."""


def needs_of(
    methods: Sequence[str], encoder: str | None, pretrained: str | None, device: str
) -> Needs:
    """What these methods need, as a function of the cache; nothing is loaded before it is called.

    Parameters
    ----------
    methods : sequence of str
        Names of the catalog.
    encoder, pretrained : str or None
        As given.
    device : str
        Where the methods compute.

    Raises
    ------
    InputError
        If a method is unknown, or an encoder is named that none of them needs.
    """
    wanted = {find_method(name).needs for name in methods}
    if (encoder or pretrained) and "text tower" not in wanted:
        learners = ", ".join(methods_that_need("text tower"))
        raise InputError(
            f"--encoder and --pretrained are for methods that learn words ({learners}), and none "
            "is asked for; to choose a cache by its encoder use --model."
        )

    def find(cache: FeatureCache) -> dict[str, Any]:
        if "text tower" not in wanted:
            return {}
        from cafe.encoders.text_tower import load_tower

        return {"tower": load_tower(cache, encoder, pretrained, device=device)}

    return find
