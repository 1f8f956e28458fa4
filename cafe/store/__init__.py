"""The HDF5 file that holds the features of one dataset under one encoder: the only user of h5py.

The format is specified in cache/README.md. A file is written once, from front to back, under a
temporary name, and appears under its own name complete and synced. A file from elsewhere is
hostile until it is checked: nothing of it is read before its links, types and sizes are.
"""

from cafe.store.contents import FORMAT, SPLITS, Block, Header, SplitArrays
from cafe.store.read import FeatureCache
from cafe.store.verify import Verification, verify_cache
from cafe.store.write import write_cache

__all__ = [
    "FORMAT",
    "SPLITS",
    "Block",
    "FeatureCache",
    "Header",
    "SplitArrays",
    "Verification",
    "verify_cache",
    "write_cache",
]
