"""A contact sheet: one page with a small picture of each image that is to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cafe.curation.suggestions import Suggestion
from cafe.datasets.thumbnails import thumbnails_from_dataset, thumbnails_from_folder
from cafe.errors import CafeError, raise_as, visible
from cafe.features.task import boxes_by_id
from cafe.store import FeatureCache
from cafe.store.files import write_text


def write_contact_sheet(
    path: Path,
    suggestions: Sequence[Suggestion],
    *,
    folder: Path | None = None,
    dataset: str = "",
    files: Sequence[str] = (),
    cache: FeatureCache | None = None,
) -> int:
    """Write suggestions as one HTML page that needs no network.

    Parameters
    ----------
    path : Path
        The file to write; a page that is there is replaced.
    suggestions : sequence of Suggestion
    folder : Path, optional
        What the ids are relative to.
    dataset : str
        Without a folder: the dataset of that name, where it is at hand.
    files : sequence of str
        The paths of the images, where they are files that the user named.
    cache : FeatureCache, optional
        Where the images of the folder are known; of boxes, these are shown.

    Returns
    -------
    int
        How many images have a picture; the others have their names alone.

    Raises
    ------
    CafeError
        If the file cannot be written.
    """
    ids = {row: suggestion.id for row, suggestion in enumerate(suggestions)}
    if files:
        paths = {row: str(Path(file).absolute()) for row, file in enumerate(files)}
        pictures = thumbnails_from_folder(Path(Path.cwd().anchor), paths)
    elif folder is not None:
        boxes = boxes_by_id(cache, set(ids.values())) if cache is not None else {}
        pictures = thumbnails_from_folder(folder, ids, boxes)
    else:
        pictures = thumbnails_from_dataset(dataset, ids)
    templates = Environment(
        loader=PackageLoader("cafe.curation"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    page = templates.get_template("contact_sheet.html.j2").render(
        images=[(s, pictures.get(row, "")) for row, s in enumerate(suggestions)]
    )
    with raise_as(CafeError, f"cannot write '{path}'", "choose another file"):
        write_text(path, page)
    return len(pictures)
