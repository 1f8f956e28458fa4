"""The text tower that some methods need beside a cache, from `--encoder` and `--pretrained`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cafe.errors import CafeError, InputError
from cafe.methods.catalog import find_method, methods_that_need

if TYPE_CHECKING:
    from cafe.store import FeatureCache


def tower_loader(
    methods: Sequence[str], encoder: str | None, pretrained: str | None, device: str
) -> Callable[[FeatureCache], dict[str, Any]]:
    """A function that loads the tower of a cache's encoder as a setting of methods that need it.

    Parameters
    ----------
    methods : sequence of str
        Names of the catalog.
    encoder, pretrained : str or None
        Where the encoder is, if it came from a folder or a file.
    device : str
        Where the methods compute.

    Returns
    -------
    callable
        Of a cache: `{"tower": tower}`, or `{}` where no method needs one. Nothing is loaded before
        it is called.

    Raises
    ------
    InputError
        If a method is unknown, or an encoder is named that none of them needs.
    """
    needed = any(find_method(name).needs == "text tower" for name in methods)
    if (encoder or pretrained) and not needed:
        learners = ", ".join(methods_that_need("text tower"))
        raise InputError(
            f"--encoder and --pretrained are for methods that learn words ({learners}), and none "
            "of these does; to choose a cache by its encoder use --model."
        )

    def load(cache: FeatureCache) -> dict[str, Any]:
        if not needed:
            return {}
        from cafe.encoders.text_tower import load_tower

        try:
            return {"tower": load_tower(cache, encoder, pretrained, device=device)}
        except CafeError as error:  # --model is the filter of caches here
            error.args = (str(error).replace("model=", "encoder="),)
            raise

    return load
