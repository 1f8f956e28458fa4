"""Boxes on new images: what a saved head says of them, how good that is, and pictures of it."""
