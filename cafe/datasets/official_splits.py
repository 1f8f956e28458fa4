"""The official splits of public datasets, read from the files that come with the images.

Each reader gives entries whose paths are relative to the dataset's folder of images. Where an
official split has no val, cafe holds one out of train and says so.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cafe.datasets.image_folder import class_entries
from cafe.datasets.image_list import Entry
from cafe.datasets.left_out import LeftOut
from cafe.datasets.list_folder import subfolders
from cafe.datasets.make_split import HELD_OUT, hold_out_validation
from cafe.datasets.text_files import clean_path, quote, quote_some, read_text
from cafe.errors import DatasetError


class OfficialSplit(ABC):
    """An official split.

    Attributes
    ----------
    files : tuple of str
        What must lie in the dataset's folder for the split to be read.
    """

    files: tuple[str, ...]

    @abstractmethod
    def entries(self, folder: Path, left_out: LeftOut, /) -> list[Entry]:
        """Read the split from the dataset's folder; count what is left out of it."""

    def with_val(self, entries: list[Entry]) -> tuple[list[Entry], str]:
        """Hold a val out of train where there is none, and say so."""
        if any(entry.split == "val" for entry in entries):
            return entries, ""
        return hold_out_validation(entries), f"; {HELD_OUT}"

    def read(self, folder: Path, left_out: LeftOut) -> tuple[list[Entry], str]:
        """Read the split, with a val.

        Parameters
        ----------
        folder : Path
            The dataset's folder, with `files` in it.
        left_out : LeftOut
            Counts what is left out.

        Returns
        -------
        (list of Entry, str)
            The entries, and in words which split it is.
        """
        entries, note = self.with_val(self.entries(folder, left_out))
        return entries, f"the official split ({', '.join(self.files)}){note}"


class TextLists(OfficialSplit):
    """One text file per split, one image per line.

    Parameters
    ----------
    lists : mapping of str to str
        Split to file.
    line : str
        Regular expression for a line, with the groups `image` and `name` (the class).
    image : str
        The path of the image, from the groups of the line and `{folder}`, the class in words apart.
    """

    def __init__(self, lists: Mapping[str, str], line: str, image: str = "{image}") -> None:
        self.files = tuple(lists.values())
        self._lists, self._line, self._image = lists, re.compile(line), image

    def entries(self, folder: Path, _: LeftOut, /) -> list[Entry]:
        """Read every list."""
        return [
            self._entry(split, line.strip(), f"{folder / name}:{number}")
            for split, name in self._lists.items()
            for number, line in enumerate(read_text(folder / name).splitlines(), start=1)
            if line.strip()
        ]

    def _entry(self, split: str, line: str, where: str) -> Entry:
        match = self._line.fullmatch(line)
        if match is None:
            raise DatasetError(f"{where}: {quote(line)} does not name an image as expected.")
        path = self._image.format(**match.groupdict(), folder=split_words(match["name"]))
        return Entry(split, clean_path(path, where), match["name"])


def split_words(name: str) -> str:
    """Write `ApplyEyeMakeup` as `Apply_Eye_Makeup`, as CoOp names UCF101's folders."""
    return "_".join(re.findall(r"[A-Z][^A-Z]*", name)) if "_" not in name else name


class MatlabFlowers(OfficialSplit):
    """Oxford Flowers: `setid.mat` has image numbers by split, `imagelabels.mat` classes from 1.

    Parameters
    ----------
    class_names : sequence of str
        By label; the files do not name the classes. (102,)
    """

    files = ("imagelabels.mat", "setid.mat")

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = class_names

    def entries(self, folder: Path, _: LeftOut, /) -> list[Entry]:
        """Read both files."""
        labels, numbers = (_read_matlab(folder / name) for name in self.files)
        keys = {"train": "trnid", "val": "valid", "test": "tstid"}
        entries = []
        with _one_error(folder, self.files):
            for split, key in keys.items():
                for number in map(int, numbers[key]):
                    label = int(labels["labels"][number - 1]) - 1
                    path = f"image_{number:05d}.jpg"
                    entries.append(Entry(split, path, label, self._names[label]))
        return entries


class MatlabCars(OfficialSplit):
    """Stanford Cars: annotations with file names and classes from 1, names in the devkit."""

    files = (
        "devkit/cars_meta.mat",
        "devkit/cars_train_annos.mat",
        "cars_test_annos_withlabels.mat",
    )

    def entries(self, folder: Path, _: LeftOut, /) -> list[Entry]:
        """Read the annotations; the year moves to the front of a class' name, as in CoOp."""
        meta, train, test = (_read_matlab(folder / name) for name in self.files)
        entries = []
        with _one_error(folder, self.files):
            for split, content in (("train", train), ("test", test)):
                for row in content["annotations"]:
                    label = int(row["class"]) - 1
                    *make, year = str(meta["class_names"][label]).split()
                    path = clean_path(f"cars_{split}/{row['fname']}", str(folder))
                    entries.append(Entry(split, path, label, " ".join([year, *make])))
        return entries


def _read_matlab(path: Path) -> dict[str, Any]:
    io: Any = importlib.import_module("scipy.io")
    try:
        content: dict[str, Any] = io.loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises anything on a damaged file
        raise DatasetError(f"cannot read {path}: {quote(str(error))}.") from error
    return content


@contextlib.contextmanager
def _one_error(folder: Path, names: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except DatasetError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{folder}: {' and '.join(names)} do not fit together ({quote(str(error))})."
        ) from error


class ImageNetFolders(OfficialSplit):
    """ImageNet: `images/{train,val}/<WordNet id>/*`, names in `classnames.txt`; val is the test."""

    files = ("classnames.txt",)

    def entries(self, folder: Path, left_out: LeftOut, /) -> list[Entry]:
        """List both folders and look the class names up."""
        lines = read_text(folder / self.files[0]).splitlines()
        names = dict(words for line in lines if len(words := line.strip().split(maxsplit=1)) == 2)
        images = next((f for f in (folder / "images", folder) if (f / "train").is_dir()), None)
        if images is None or not (images / "val").is_dir():
            raise DatasetError(f"{folder / 'images'} lacks the folder train or val of ImageNet.")
        if not subfolders(images / "val"):
            raise DatasetError(
                f"{images / 'val'} has no class folders (n01440764, ...); sort the validation "
                "images into them."
            )
        entries = [
            *class_entries(images / "train", "train/", "train", left_out),
            *class_entries(images / "val", "val/", "test", left_out),
        ]
        unnamed = sorted({str(entry.key) for entry in entries} - set(names))
        if unnamed:
            raise DatasetError(f"{folder / self.files[0]} has no name for {quote_some(unnamed)}.")
        return [entry._replace(name=names[str(entry.key)]) for entry in entries]

    def with_val(self, entries: list[Entry]) -> tuple[list[Entry], str]:
        """CoOp's protocol has no val for ImageNet, so none is held out."""
        return entries, "; the validation images are the test set, there is no val"


OFFICIAL_SPLITS: Mapping[str, type[OfficialSplit]] = {
    "cars": MatlabCars,
    "flowers": MatlabFlowers,
    "imagenet": ImageNetFolders,
    "lists": TextLists,
}
"""By the `kind` that `catalog.json` gives; its other values are the class's arguments."""
