"""How timm prepares an image: its own transforms, by cafe's words for them."""

from __future__ import annotations

from typing import Any

from cafe.compat import import_timm

MODES = {"center": "shortest", "squash": "squash", "border": "longest"}
"""timm's way to crop -> open_clip's way to resize."""


def timm_steps(config: dict[str, Any]) -> list[Any]:
    """The transforms that timm prepares an image with, by the words of `timm_models`."""
    modes = {mode: name for name, mode in MODES.items()}
    transform = import_timm().data.create_transform(
        input_size=(3, *config["size"]),
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        crop_mode=modes[config["resize_mode"]],
        is_training=False,
    )
    return list(transform.transforms)
