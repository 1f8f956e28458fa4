"""Where images, labels, class names and published splits come from."""

from cafe.datasets.dataset import SPLITS, Dataset, Item
from cafe.datasets.known import DatasetInfo, list_datasets
from cafe.datasets.load import DATASET_NAMES, load_dataset
from cafe.datasets.text_files import read_class_names

__all__ = [
    "DATASET_NAMES",
    "SPLITS",
    "Dataset",
    "DatasetInfo",
    "Item",
    "list_datasets",
    "load_dataset",
    "read_class_names",
]
