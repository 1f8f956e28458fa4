"""Caches from features that were computed elsewhere: by other people's tools, or by one's own."""

from __future__ import annotations

from cafe.extract.importers.chance import ZeroShotCheck, check_zero_shot
from cafe.extract.importers.sources import import_features
from cafe.extract.importers.text import TextFeatures, encode_classes

__all__ = ["TextFeatures", "ZeroShotCheck", "check_zero_shot", "encode_classes", "import_features"]
