"""Which tool made what is to be imported, and the way from there to a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from cafe.errors import InputError
from cafe.extract.importers import clip_benchmark, clip_retrieval, npz, tip_adapter
from cafe.extract.importers.class_list import ClassList
from cafe.extract.importers.feature_set import save
from cafe.extract.importers.text import TextFeatures, encode_for_cache, read_classes, read_text
from cafe.store import FeatureCache

_TOOLS = (npz, tip_adapter, clip_benchmark, clip_retrieval)


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
        The cache file to write, `<home>/<dataset>/<model>.<pretrained>.h5`.
    text : TextFeatures, Path or str, optional
        The classes' text features, or a file of them: npz as above, or an npy or pt file of one
        array `(C, P, D)`, `(C, D)` or `(D, C)`. None takes those in the npz.
    classes : Path or str, optional
        Class names in the order of the labels, one a line, or a JSON list. None takes those beside
        the text features; where there are none, classes are numbered.
    encode : bool
        Compute the text features of `classes` with the encoder that `path` names.
    template : sequence of str, optional
        With `encode`, the prompts with `{}` for the class name; None takes the dataset's.
    shots : int, optional
        Which `keys_Kshots.pt` of Tip-Adapter; None takes the largest.
    label : str, optional
        The metadata column of clip-retrieval that holds the class; None takes `label` where there
        is one, else the folder that the image lies in.
    logit_scale : float, optional
        None takes the one in the file, else 100, which is CLIP's.

    Returns
    -------
    FeatureCache

    Raises
    ------
    InputError
        If there is no such source, it is of no known kind, or text features are missing.
    CacheFormatError
        If arrays are missing, of the wrong shape, or not finite; nothing is written.
    CacheError
        If the cache cannot be written.
    """
    source, path = Path(source), Path(path)
    if not source.exists():
        raise InputError(f"no file or folder '{source}'; give features that are there.")
    class_names = None if classes is None else read_classes(Path(classes))
    if encode:
        if text is not None or class_names is None:
            raise InputError("encode=True computes the text of classes=FILE; give that, no text.")
        text = encode_for_cache(path, class_names, template)
    elif template:
        raise InputError("template= is for the text that encode=True computes; add encode=True.")
    class_list = ClassList(
        text=text if isinstance(text, TextFeatures) or text is None else read_text(Path(text)),
        class_names=class_names,
        shots=shots,
        label=label,
        logit_scale=logit_scale,
    )
    for tool in _TOOLS:
        if tool.fits(source):
            _refuse_strange(source, tool, {"shots": shots, "label": label})
            return save(tool.read_features(source, class_list), path)
    forms = "; ".join(tool.FORM for tool in _TOOLS)
    raise InputError(f"'{source}' is none of the kinds that are read: {forms}.")


def _refuse_strange(source: Path, tool: ModuleType, asked: Mapping[str, object]) -> None:
    """Refuse what is said of another tool's features."""
    for name, owner in (("shots", tip_adapter), ("label", clip_retrieval)):
        if asked[name] is not None and tool is not owner:
            raise InputError(
                f"--{name} {asked[name]} means nothing for '{source}'; it is for {owner.FORM}."
            )
