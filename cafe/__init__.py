"""cafe: adapt CLIP to a new visual task in seconds, on cached features."""
