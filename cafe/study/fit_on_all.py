"""One head on every labelled image, and how good it will be on images that it has not seen.

The head that is kept is fitted on all images. What it will reach is estimated by heads of the same
method that leave some images out: on the dataset's own test split, or on folds of all images. The
same images, judged by heads that were not fitted on them, calibrate its probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from cafe.errors import InputError
from cafe.features.splits import Rows, draw_folds
from cafe.features.task import Task
from cafe.features.tensors import LARGE, ClassText, Features, TrainingSet, join
from cafe.methods.base import Context, Job, Method
from cafe.methods.catalog import find_method, make_method, methods_that_need
from cafe.methods.head import Head
from cafe.methods.zero_shot import ZeroShot, ZeroShotHead
from cafe.progress import Progress
from cafe.results.estimate import Estimate
from cafe.results.head_selection import best_of
from cafe.results.result import NOT_CALIBRATED, Calibration
from cafe.study.calibration import fit_temperature, judge, most_judged
from cafe.study.equal_texts import check_texts
from cafe.study.estimate import FOLDS, estimate_accuracy
from cafe.study.plan import COMMON_SETTINGS, resolve_settings
from cafe.study.prompt_weighting import check_weighting

DEFAULT_METHODS = ("auto", "map-probe")
"""Of which the better on held-out images is kept; `docs/train.md` says why these."""


@dataclass(frozen=True)
class Fitted:
    """A head that was fitted on every labelled image.

    Attributes
    ----------
    head : Head
    zero_shot : ZeroShotHead or None
        Zero-shot CLIP on the same classes; None where their texts are equal, or there are none.
    calibration : Calibration
    estimate : Estimate or None
        None where nothing could be held out: no class has two images.
    images : tuple of int
        How many of each class it was fitted on. (C,)
    rivals : mapping of str to float
        Accuracy in percent of the methods that were not kept, on the same held-out images.
    judges : sequence of (Head, Tensor)
        Heads of the kept method that were fitted without some images, and the rows of these among
        the images of all splits, joined in order.
    """

    head: Head
    zero_shot: ZeroShotHead | None
    calibration: Calibration
    estimate: Estimate | None
    images: tuple[int, ...]
    rivals: Mapping[str, float] = field(default_factory=dict)
    judges: Sequence[tuple[Head, Tensor]] = ()


def fit_on_all(
    task: Task,
    methods: Sequence[str] = DEFAULT_METHODS,
    settings: Mapping[str, Any] | None = None,
    *,
    own_test: bool = False,
    context: Context | None = None,
    progress: Progress | None = None,
    on_head: Callable[[Head], None] | None = None,
) -> Fitted:
    """Fit a method on all images of a cache, estimate its accuracy and calibrate it.

    Parameters
    ----------
    task : Task
        Features of one cache; all of its splits are used.
    methods : sequence of str
        Names of the catalog that need nothing beside a cache. Of several the best on held-out
        images is kept; see `cafe.results.head_selection.best_of`.
    settings : mapping, optional
        Hyper-parameters; each method takes those that it knows.
    own_test : bool
        Estimate on the split "test", by heads that are fitted on all others, where there is one;
        else by cross-validation over all images.
    context : Context, optional
        Where it computes; None is the CPU.
    progress : callable, optional
        See `cafe.progress.Progress`; a step is a method.
    on_head : callable, optional
        Given the head of all images of each method, before the heads that judge it are fitted.

    Returns
    -------
    Fitted

    Raises
    ------
    InputError
        If a method or a setting does not fit the cache; nothing is fitted.
    """
    context, settings = context or Context(), dict(settings or {})
    check_methods(methods, settings)
    check_texts(task.text, methods, settings, task.name)
    check_weighting(task.text, methods, settings, task.name)
    images = join([split.to("cpu") for split in task.splits.values()])
    own_test = own_test and "test" in task.splits and len(task.splits) > 1
    rows = _test_rows(task) if own_test else draw_folds(images.y, 0, FOLDS, images.groups)
    text = task.text.to(context.device)
    counts = torch.bincount(images.y, minlength=len(text.names)).tolist()
    if not rows:  # nothing to choose by: the first
        methods = methods[:1]
    fits = []
    for place, name in enumerate(methods):
        reporting = _reporting(context, name, place, len(methods), progress)
        fits.append(_fit(make_method(name, reporting, settings), images, rows, text, on_head))
    plain = TrainingSet(images[torch.arange(0)].to(context.device), text)
    zero_shot = None if not text.tells_apart else cast("ZeroShotHead", ZeroShot(context).fit(plain))
    if not rows:
        return Fitted(fits[0][0], zero_shot, NOT_CALIBRATED, None, tuple(counts))
    held_out = [images[out] for _, out in rows]
    source: Literal["test", "out-of-fold"] = "test" if own_test else "out-of-fold"
    calibrations = [_calibrate(judges, held_out, len(text.names), source) for _, judges in fits]
    best = best_of(calibrations)
    estimate, accuracies = estimate_accuracy(
        [judges for _, judges in fits], held_out, text, zero_shot, source
    )
    rivals = {n: a for n, a in zip(methods, accuracies, strict=True) if n != methods[best]}
    head, judges = fits[best]
    judged = [(judge, out) for judge, (_, out) in zip(judges, rows, strict=True)]
    return Fitted(head, zero_shot, calibrations[best], estimate, tuple(counts), rivals, judged)


def check_methods(methods: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Refuse methods that need more than a cache has, and settings that none of them has."""
    if not methods:
        raise InputError("training needs at least one method; 'cafe methods' lists them.")
    for name in methods:
        need = find_method(name).needs
        if need and not (need == "pool" and settings.get("pool") is not None):
            raise InputError(
                f"{name} needs more than image and text features ({need}), so 'cafe train' cannot "
                f"take it; fit it with 'cafe fit', or train {', '.join(methods_that_need(''))}."
            )
    resolve_settings(methods, [None] * len(COMMON_SETTINGS), settings)
    if "ratios" in settings:
        raise InputError(
            "training takes one ratio, as all images are fitted on and none is left to choose "
            "among several by; give one, 'learn' or 'auto'."
        )


def _reporting(
    context: Context, name: str, done: int, total: int, progress: Progress | None
) -> Context:
    """The context that reports the epochs of a method."""
    if progress is None:
        return context
    progress(name, done, total)
    return replace(
        context, tell=lambda epoch, all_: progress(f"{name}, epoch {epoch} of {all_}", done, total)
    )


def _test_rows(task: Task) -> Rows:
    """The test split as the only fold."""
    is_test = torch.cat(
        [torch.full((len(split),), name == "test") for name, split in task.splits.items()]
    )
    everything = torch.arange(len(is_test))
    return [(everything[~is_test], everything[is_test])]


def _fit(
    method: Method,
    images: Features,
    rows: Rows,
    text: ClassText,
    on_head: Callable[[Head], None] | None,
) -> tuple[Head, Sequence[Head]]:
    """The head of all images, and the head of each fold without what it holds out."""
    device = text.features.device
    parts = [torch.arange(len(images)), *(kept for kept, _ in rows)]

    def job(part: Tensor) -> Job:
        return Job(TrainingSet(images[part].to(device), text))

    # side by side, if they fit into memory; the first by itself, if it is waited for
    step = len(parts) if images.x.numel() * len(parts) < LARGE else 1
    first = 1 if on_head else step
    heads = method.fit_many([job(part) for part in parts[:first]])
    if on_head:
        on_head(heads[0])
    for start in range(first, len(parts), step):
        heads += method.fit_many([job(part) for part in parts[start : start + step]])
    return heads[0], heads[1:]


def _calibrate(
    judges: Sequence[Head],
    held_out: Sequence[Features],
    classes: int,
    source: Literal["test", "out-of-fold"],
) -> Calibration:
    most = -(-most_judged(classes) // len(held_out))
    pairs = [judge(head, part, most) for head, part in zip(judges, held_out, strict=True)]
    return fit_temperature(pairs, source)
