"""The official splits of public datasets, read from the files that come with the images.

Each reader gives entries whose paths are relative to the dataset's folder of images. Where an
official split has no val, cafe holds one out of train and says so.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cafe.datasets.folder import class_entries, subfolders
from cafe.datasets.listing import Entry
from cafe.datasets.make_split import HELD_OUT, hold_out_validation
from cafe.datasets.text import clean_path, read_text, show, some
from cafe.errors import DatasetError


class Official(Protocol):
    """An official split."""

    @property
    def files(self) -> tuple[str, ...]:
        """What must lie in the dataset's folder for the split to be read."""

    def entries(self, folder: Path) -> list[Entry]:
        """Read the split from the dataset's folder."""


@dataclass(frozen=True)
class Lists:
    """One text file per split, one image per line.

    Attributes
    ----------
    lists : mapping of str to str
        Split to file.
    line : str
        Regular expression for a line, with the groups `image` and `name` (the class).
    image : str
        The path of the image, from the groups of the line.
    folder_of : callable
        Turns the class into the name of its folder, for `{folder}` in `image`.
    """

    lists: Mapping[str, str]
    line: str
    image: str = "{image}"
    folder_of: Callable[[str], str] = str

    @property
    def files(self) -> tuple[str, ...]:
        """The lists."""
        return tuple(self.lists.values())

    def entries(self, folder: Path) -> list[Entry]:
        """Read every list."""
        found = []
        for split, name in self.lists.items():
            for number, line in enumerate(read_text(folder / name).splitlines(), start=1):
                if line.strip():
                    found.append(self._entry(split, line.strip(), f"{folder / name}:{number}"))
        return found

    def _entry(self, split: str, line: str, where: str) -> Entry:
        match = re.fullmatch(self.line, line)
        if match is None:
            raise DatasetError(f"{where}: {show(line)} does not name an image as expected.")
        name = match["name"]
        path = self.image.format(**match.groupdict(), folder=self.folder_of(name))
        return Entry(split, clean_path(path, where), name)


_NAMES = (  # of the 102 flowers, in the order of their labels
    "pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold; "
    "tiger lily; moon orchid; bird of paradise; monkshood; globe thistle; snapdragon; colt's "
    "foot; king protea; spear thistle; yellow iris; globe-flower; purple coneflower; peruvian "
    "lily; balloon flower; giant white arum lily; fire lily; pincushion flower; fritillary; red "
    "ginger; grape hyacinth; corn poppy; prince of wales feathers; stemless gentian; artichoke; "
    "sweet william; carnation; garden phlox; love in the mist; mexican aster; alpine sea holly; "
    "ruby-lipped cattleya; cape flower; great masterwort; siam tulip; lenten rose; barbeton "
    "daisy; daffodil; sword lily; poinsettia; bolero deep blue; wallflower; marigold; buttercup; "
    "oxeye daisy; common dandelion; petunia; wild pansy; primula; sunflower; pelargonium; bishop "
    "of llandaff; gaura; geranium; orange dahlia; pink-yellow dahlia; cautleya spicata; japanese "
    "anemone; black-eyed susan; silverbush; californian poppy; osteospermum; spring crocus; "
    "bearded iris; windflower; tree poppy; gazania; azalea; water lily; rose; thorn apple; "
    "morning glory; passion flower; lotus; toad lily; anthurium; frangipani; clematis; hibiscus; "
    "columbine; desert-rose; tree mallow; magnolia; cyclamen; watercress; canna lily; "
    "hippeastrum; bee balm; ball moss; foxglove; bougainvillea; camellia; mallow; mexican "
    "petunia; bromelia; blanket flower; trumpet creeper; blackberry lily"
)
FLOWERS = tuple(_NAMES.split("; "))


def _matlab(path: Path) -> dict[str, Any]:
    io: Any = importlib.import_module("scipy.io")
    try:
        content: dict[str, Any] = io.loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises what the bytes lead it to
        raise DatasetError(f"cannot read {path}: {show(str(error))}.") from error
    return content


@dataclass(frozen=True)
class FlowersMat:
    """Oxford Flowers: `setid.mat` has image numbers by split, `imagelabels.mat` classes from 1."""

    files: tuple[str, ...] = ("imagelabels.mat", "setid.mat")

    def entries(self, folder: Path) -> list[Entry]:
        """Read both files."""
        labels, numbers = (_matlab(folder / name) for name in self.files)
        keys = {"train": "trnid", "val": "valid", "test": "tstid"}
        try:
            return [
                self._entry(split, int(number), int(labels["labels"][number - 1]))
                for split, key in keys.items()
                for number in numbers[key]
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{folder}: {' and '.join(self.files)} do not fit together ({show(str(error))})."
            ) from error

    def _entry(self, split: str, number: int, label: int) -> Entry:
        return Entry(split, f"image_{number:05d}.jpg", label - 1, FLOWERS[label - 1])


@dataclass(frozen=True)
class CarsMat:
    """Stanford Cars: annotations with file names and classes from 1, names in the devkit."""

    files: tuple[str, ...] = (
        "devkit/cars_meta.mat",
        "devkit/cars_train_annos.mat",
        "cars_test_annos_withlabels.mat",
    )

    def entries(self, folder: Path) -> list[Entry]:
        """Read the annotations; the year moves to the front of a class' name, as in CoOp."""
        meta, train, test = (_matlab(folder / name) for name in self.files)
        found = []
        try:
            for split, content in (("train", train), ("test", test)):
                for row in content["annotations"]:
                    *make, year = str(meta["class_names"][int(row["class"]) - 1]).split()
                    path = clean_path(f"cars_{split}/{row['fname']}", str(folder))
                    found.append(Entry(split, path, int(row["class"]) - 1, " ".join([year, *make])))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{folder}: {' and '.join(self.files)} do not fit together ({show(str(error))})."
            ) from error
        return found


@dataclass(frozen=True)
class ImageNetFolders:
    """ImageNet: `images/{train,val}/<WordNet id>/*`, names in `classnames.txt`; val is the test."""

    files: tuple[str, ...] = ("classnames.txt",)

    def entries(self, folder: Path) -> list[Entry]:
        """List both folders and look the class names up."""
        words = [line.strip().split(maxsplit=1) for line in self._lines(folder)]
        names = {pair[0]: pair[1] for pair in words if len(pair) == 2}
        images = next((f for f in (folder / "images", folder) if (f / "train").is_dir()), None)
        if images is None or not (images / "val").is_dir():
            raise DatasetError(f"{folder / 'images'} lacks the folder train or val of ImageNet.")
        if not subfolders(images / "val"):
            raise DatasetError(
                f"{images / 'val'} has no class folders (n01440764, ...); sort the validation "
                "images into them."
            )
        found = [
            *class_entries(images / "train", "train/", "train"),
            *class_entries(images / "val", "val/", "test"),
        ]
        unnamed = sorted({str(entry.key) for entry in found} - set(names))
        if unnamed:
            raise DatasetError(f"{folder / self.files[0]} has no name for {some(unnamed)}.")
        return [entry._replace(name=names[str(entry.key)]) for entry in found]

    def _lines(self, folder: Path) -> list[str]:
        return read_text(folder / self.files[0]).splitlines()


def read_official(official: Official, folder: Path) -> tuple[list[Entry], str]:
    """Read an official split, holding a val out of train where it has none.

    Parameters
    ----------
    official : Official
        One of the readers above.
    folder : Path
        The dataset's folder, with `official.files` in it.

    Returns
    -------
    (list of Entry, str)
        The entries, and in words which split it is.
    """
    entries = official.entries(folder)
    source = f"the official split ({', '.join(official.files)})"
    if isinstance(official, ImageNetFolders):
        return entries, f"{source}; the validation images are the test set, there is no val"
    if all(entry.split != "val" for entry in entries):
        entries, source = hold_out_validation(entries), f"{source}; {HELD_OUT}"
    return entries, source
