"""Pascal VOC's XML: one file of boxes for each image, and lists of the images of each split.

The files of strangers are read: a document type, in which entities would be declared, is refused,
so that nothing unfolds and no other file is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as Xml

from cafe.datasets.boxes.boxes import BoxColumns, Boxes
from cafe.datasets.boxes.lists import splits_of_lists
from cafe.datasets.class_order import in_class_order
from cafe.datasets.text_files import quote
from cafe.errors import DatasetError


class _NoDoctype(Xml.TreeBuilder):
    def doctype(self, name: str, _pubid: str | None, _system: str | None) -> None:
        raise DatasetError(f"it declares a document type ({name}), which may hold entities")


def read_voc(files: Sequence[Path], folder: Path, lists: Mapping[str, Path]) -> Boxes:
    """Read Pascal VOC annotations.

    An image is called as its file of annotations, with any suffix.

    Parameters
    ----------
    files : sequence of Path
        XML files.
    folder : Path
        Folder that they lie below.
    lists : mapping of str to Path
        Split -> text file with the names of its images, as in `ImageSets/Main`.

    Returns
    -------
    Boxes
        Of file after file.

    Raises
    ------
    DatasetError
        If a file is not usable; the message names it.
    """
    columns, labels = BoxColumns(), list[str]()
    images, sizes = list[str](), list[tuple[int, int]]()
    for row, path in enumerate(files):
        tree = _parse(path)
        # the element <filename> is often that of a file that was renamed since
        images.append(path.relative_to(folder).with_suffix("").as_posix())
        sizes.append((_whole(tree, "size/width"), _whole(tree, "size/height")))
        for box in tree.iter("object"):
            columns.image.append(row)
            columns.xywh.extend(_box(box, path))
            labels.append(_name(box, path))
            columns.is_difficult.append(_whole(box, "difficult") > 0)
    names = in_class_order(set(labels))
    rank = {name: place for place, name in enumerate(names)}
    columns.labels.extend(rank[label] for label in labels)
    splits = splits_of_lists(images, lists)
    return columns.boxes(str(folder), images, names, sizes=sizes, splits=splits)


def _parse(path: Path) -> Xml.Element:
    try:
        parser = Xml.XMLParser(target=_NoDoctype())  # noqa: S314 - without a document type
        parser.feed(path.read_bytes())
        tree: Xml.Element = parser.close()
    except (DatasetError, OSError, ValueError, LookupError, Xml.ParseError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"{path} is no usable XML: {reason}.") from None
    if tree.tag != "annotation":
        raise DatasetError(f"{path} is no Pascal VOC file: it begins with {quote(tree.tag)}.")
    return tree


def _name(box: Xml.Element, path: Path) -> str:
    name = (box.findtext("name") or "").strip()
    if not name:
        raise DatasetError(f"{path}: an object has no <name>; give each a class.")
    return name


def _box(box: Xml.Element, path: Path) -> tuple[float, float, float, float]:
    """Left, top, width and height; VOC counts pixels from 1, and names the last one inside."""
    texts = [box.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = (float(text or "") for text in texts)
    except ValueError:
        raise DatasetError(
            f"{path}: an object has no <bndbox> of four numbers xmin, ymin, xmax, ymax "
            f"({quote(texts)})."
        ) from None
    # equal corners are a click, and no box of one pixel
    width = 0.0 if right <= left else right - left + 1
    height = 0.0 if bottom <= top else bottom - top + 1
    return left - 1, top - 1, width, height


def _whole(tree: Xml.Element, name: str) -> int:
    """A number of an element; 0 where there is none."""
    text = (tree.findtext(name) or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
