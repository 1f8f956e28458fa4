"""The importers, and the choice of the one that reads a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cafe.datasets.prompts import TEMPLATE_SETS, check_templates, fill, templates_for
from cafe.errors import InputError
from cafe.extract.importers.classes import (
    ImportOptions,
    TextFeatures,
    read_class_names,
    read_text_features,
)
from cafe.extract.importers.clip_retrieval import read_clip_retrieval
from cafe.extract.importers.feature_set import FeatureSet, write_feature_set
from cafe.extract.importers.tensor_files import (
    read_clip_benchmark,
    read_npz_file,
    read_tip_adapter,
)
from cafe.extract.importers.zero_shot_check import ZeroShotCheck
from cafe.progress import Note, log
from cafe.store import FeatureCache, lock_cache
from cafe.store.paths import cache_name


class Importer(NamedTuple):
    """What reads one kind of source.

    Attributes
    ----------
    kind : str
        The sources that it reads, in words.
    read : callable
        Reads a source; None where it is of another kind.
    option : str
        The option that it alone has; "" for none.
    """

    kind: str
    read: Callable[[Path, ImportOptions], FeatureSet | None]
    option: str = ""


_IMPORTERS = (
    Importer("an .npz file with train_features, train_labels and so on", read_npz_file),
    Importer("a folder of Tip-Adapter (keys_Kshots.pt, ...)", read_tip_adapter, "shots"),
    Importer("a folder of CLIP_benchmark (features_SPLIT.pt, ...)", read_clip_benchmark),
    Importer("a folder of clip-retrieval (img_emb/*.npy, ...)", read_clip_retrieval, "label"),
)


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
    note: Note | None = None,
    check: Callable[[list[ZeroShotCheck]], None] | None = None,
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
        array `(C, P, D)`, `(C, D)` or `(D, C)`. None takes those in the npz; without any the cache
        has no text, and serves the methods that need none.
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
    note : callable, optional
        Told in a sentence each, before the cache is written, what was left out or assumed;
        None logs it.
    check : callable, optional
        Told, before the cache is written, how well the texts tell the images of each split, that of
        the test split first, if there are texts; see
        `cafe.extract.importers.zero_shot_check.doubts`.

    Returns
    -------
    FeatureCache

    Raises
    ------
    InputError
        If there is no such source, no importer reads it, or a cache is there and may not.
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
        note = note or log.info
        texts = _find_text(path, text, names, template, note, encode=encode)
        options = ImportOptions(texts, names, shots, label, logit_scale)
        return write_feature_set(_read(source, options), options, path, note, check)


def _find_text(
    path: Path,
    text: TextFeatures | Path | str | None,
    names: tuple[str, ...] | None,
    template: Sequence[str] | None,
    note: Note | None,
    *,
    encode: bool,
) -> TextFeatures | None:
    """The classes' text features that are given, or computed; None where the source has them."""
    if encode:
        if text is not None or names is None:
            raise InputError("encode=True computes the text of classes=FILE; give that, no text.")
        return _encode_classes(path, names, template, note)
    if template:
        raise InputError("template= is for the text that encode=True computes; add encode=True.")
    if text is None or isinstance(text, TextFeatures):
        return text
    return read_text_features(Path(text))


def _read(source: Path, options: ImportOptions) -> FeatureSet:
    for importer in _IMPORTERS:
        features = importer.read(source, options)
        if features is None:
            continue
        for owner in _IMPORTERS:
            value = getattr(options, owner.option, None)
            if value is not None and importer is not owner:
                raise InputError(
                    f"{owner.option}={value!r} means nothing for '{source}'; it is for "
                    f"{owner.kind}."
                )
        return features
    kinds = "; ".join(importer.kind for importer in _IMPORTERS)
    raise InputError(f"no importer reads '{source}'; there is one for each of: {kinds}.")


def _encode_classes(
    path: Path,
    class_names: Sequence[str],
    templates: Sequence[str] | None,
    note: Note | None,
) -> TextFeatures:
    """Compute the text features of classes with the encoder that a cache file is named after.

    Parameters
    ----------
    path : Path
        `<cache folder>/<dataset>/<model>.<pretrained>.h5`.
    class_names : sequence of str
        (C,)
    templates : sequence of str, optional
        Prompts with `{}` for the class name; None takes the dataset's. (P,)
    note : callable, optional
        Told in a sentence each what the encoder does not read of the sentences.
    """
    # slow to import, and few imports encode
    from cafe.encoders.encoder import load_encoder
    from cafe.extract.text_notes import text_notes

    dataset, _, names = cache_name(path).partition("/")
    model, _, pretrained = names.partition(".")
    known = templates_for(dataset if dataset in TEMPLATE_SETS else "default")
    sentences = fill(class_names, check_templates(templates) if templates else known)  # (C, P)
    encoder = load_encoder(model, pretrained)
    if note is not None:
        for line in text_notes(encoder, class_names, sentences):
            note(line)
    features = encoder.encode_text([sentence for row in sentences for sentence in row])
    return TextFeatures(
        f"the text of {encoder.model} '{encoder.pretrained}'",
        features.numpy().reshape(len(sentences), -1, encoder.width),  # (C, P, D)
        tuple(class_names),
        tuple(map(tuple, sentences)),
        encoder.logit_scale,
        encoder.logit_bias,
    )
