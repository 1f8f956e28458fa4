"""The HDF5 file that holds the features of one dataset under one encoder: the only user of h5py.

The format is specified in cache/README.md. A file is written once, from front to back, in a
temporary folder, and appears under its own name complete and synced. A file from elsewhere is not
trusted: nothing of it is read before its links, types and sizes are checked.
"""

from cafe.store.header import BOX, FILE_STATE, FORMAT, SPLITS, Block, Header, SplitArrays, utc_now
from cafe.store.read import FeatureCache
from cafe.store.verify import Verification, verify_cache
from cafe.store.write import lock_cache, write_cache

__all__ = [
    "BOX",
    "FILE_STATE",
    "FORMAT",
    "SPLITS",
    "Block",
    "FeatureCache",
    "Header",
    "SplitArrays",
    "Verification",
    "lock_cache",
    "utc_now",
    "verify_cache",
    "write_cache",
]
