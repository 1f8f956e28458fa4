"""Caches from features that were computed elsewhere: by other tools, or by the user's own code."""

from __future__ import annotations

from cafe.extract.importers.catalog import import_features

__all__ = ["import_features"]
