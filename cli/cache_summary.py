"""What `cafe cache ls`, `show` and `import` say of a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cafe.store import FeatureCache


def summary(cache: FeatureCache) -> dict[str, Any]:
    """What `ls`, `show` and `import` say of a cache."""
    header = cache.header
    return {
        "path": str(cache.path),
        "dataset": header.dataset,
        "encoder": {"model": header.model, "pretrained": header.pretrained},
        "classes": len(header.class_names),
        "images": dict(cache.counts),
        "width": cache.width,
        "dtype": cache.dtype,
        "prompts": len(header.sentences[0]),
        "views": cache.views,
        "tokens": cache.spatial_size,
        "skipped": len(header.skipped),
        "missing": len(header.missing),
        "bytes": cache.path.stat().st_size,
        "created": header.created,
    }
