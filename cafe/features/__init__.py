"""Cached features as tensors, drawn into shots and splits; knows no encoder."""
