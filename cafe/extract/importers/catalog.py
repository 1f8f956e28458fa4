"""The importers, and the choice of the one that reads a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cafe.errors import InputError
from cafe.extract.importers import clip_benchmark, clip_retrieval, npz, tip_adapter
from cafe.extract.importers.class_list import ImportOptions
from cafe.extract.importers.feature_set import write_feature_set
from cafe.extract.importers.text_features import (
    TextFeatures,
    encode_for_cache,
    read_class_names,
    read_text_features,
)
from cafe.store import FeatureCache, lock_cache

_IMPORTERS = (npz, tip_adapter, clip_benchmark, clip_retrieval)
_OWN_OPTIONS = {"shots": tip_adapter, "label": clip_retrieval}
"""Options that only one importer has."""


def import_features(
    source: Path | str,
    path: Path | str,
    *,
    text: TextFeatures | Path | str | None = None,
    classes: Path | str | None = None,
    encode: bool = False,
    template: Sequence[str] | None = None,
    shots: int | None = None,
    label: str | None = None,
    logit_scale: float | None = None,
    replace: bool = True,
) -> FeatureCache:
    """Make a cache from features that were computed elsewhere. Nothing in them is unpickled.

    Parameters
    ----------
    source : Path or str
        One of:

        - an npz file with `{train,val,test}_features (N, D)` and `{train,val,test}_labels (N,)` for
          at least one split, and optionally `text_prompts (C, P, D)` (or `(C, D)`), `class_names
          (C,)` and `logit_scale ()`;
        - a cache folder of Tip-Adapter: `keys_Kshots.pt`, `values_Kshots.pt`, `{val,test}_f.pt` and
          `{val,test}_l.pt`;
        - a feature folder of CLIP_benchmark: `features_SPLIT.pt` and `targets_SPLIT.pt`;
        - an output folder of clip-retrieval: `img_emb/*.npy` and `metadata/*.parquet`.
    path : Path or str
        The cache file to write, `<cache folder>/<dataset>/<model>.<pretrained>.h5`.
    text : TextFeatures, Path or str, optional
        The classes' text features, or a file of them: npz as above, or an npy or pt file of one
        array `(C, P, D)`, `(C, D)` or `(D, C)`. None takes those in the npz.
    classes : Path or str, optional
        A file of class names in the order of the labels, one per line, or a JSON list. None takes
        the names that come with the text features, else numbers the classes.
    encode : bool
        Compute the text features of `classes` with the encoder that `path` names.
    template : sequence of str, optional
        With `encode`, the prompts with `{}` for the class name; None takes the dataset's.
    shots : int, optional
        Which `keys_Kshots.pt` of Tip-Adapter; None takes the largest.
    label : str, optional
        The metadata column of clip-retrieval that holds the class. None takes `label` where there
        is one, else the folder of the image.
    logit_scale : float, optional
        None takes the one in the file, else 100, which is CLIP's.
    replace : bool
        Whether a cache may be there already.

    Returns
    -------
    FeatureCache

    Raises
    ------
    InputError
        If there is no such source, no importer reads it, text features are missing, or a cache is
        there and may not.
    BusyError
        If another process writes the cache.
    CacheFormatError
        If arrays are missing, of the wrong shape, or not finite; nothing is written.
    CacheError
        If the cache cannot be written.
    """
    source, path = Path(source), Path(path)
    if not source.exists():
        raise InputError(f"no file or folder '{source}'; give features that are there.")
    if logit_scale is not None and not 0 < logit_scale < float("inf"):
        raise InputError(f"logit_scale must be above 0; got {logit_scale}.")
    with lock_cache(path, replace=replace):
        names = None if classes is None else read_class_names(Path(classes))
        texts = _find_text(path, text, names, template, encode=encode)
        return _import(source, path, ImportOptions(texts, names, shots, label, logit_scale))


def _find_text(
    path: Path,
    text: TextFeatures | Path | str | None,
    names: tuple[str, ...] | None,
    template: Sequence[str] | None,
    *,
    encode: bool,
) -> TextFeatures | None:
    """The classes' text features that are given, or computed; None where the source has them."""
    if encode:
        if text is not None or names is None:
            raise InputError("encode=True computes the text of classes=FILE; give that, no text.")
        return encode_for_cache(path, names, template)
    if template:
        raise InputError("template= is for the text that encode=True computes; add encode=True.")
    if text is None or isinstance(text, TextFeatures):
        return text
    return read_text_features(Path(text))


def _import(source: Path, path: Path, options: ImportOptions) -> FeatureCache:
    for importer in _IMPORTERS:
        features = importer.read_features(source, options)
        if features is None:
            continue
        for name, owner in _OWN_OPTIONS.items():
            value = getattr(options, name)
            if value is not None and importer is not owner:
                raise InputError(
                    f"{name}={value!r} means nothing for '{source}'; it is for {owner.FORM}."
                )
        return write_feature_set(features, options, path)
    forms = "; ".join(importer.FORM for importer in _IMPORTERS)
    raise InputError(f"no importer reads '{source}'; there is one for each of: {forms}.")
