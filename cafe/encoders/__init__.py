"""Frozen CLIP encoders: networks, weights, tokenizers and preprocessing; knows no dataset."""
