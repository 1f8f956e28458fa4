"""`cafe.meta_train`: Meta-Adapter's weights from caches to a file."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cafe.devices import resolve_device
from cafe.errors import InputError
from cafe.features.task import load_task
from cafe.features.tensors import TrainingSet
from cafe.methods.checks import check_count
from cafe.methods.meta_adapter.file import MetaFile, save_meta
from cafe.methods.meta_adapter.training import PUBLISHED, train_meta
from cafe.progress import Progress
from cafe.store import FeatureCache
from cafe.study.compare import open_caches
from cafe.study.provenance import differ, encoder_name, encoder_of_cache

DEFAULT_SHOTS = 16
"""K in the authors' configurations."""


def meta_train(
    caches: Sequence[FeatureCache | Path | str] | FeatureCache | Path | str | None = None,
    *,
    output: Path | str = "meta.safetensors",
    shots: int = DEFAULT_SHOTS,
    epochs: int = PUBLISHED.epochs,
    lr: float = PUBLISHED.lr,
    seed: int = 0,
    device: str = "auto",
    command: str = "",
    progress: Progress | None = None,
) -> MetaFile:
    """Train Meta-Adapter's weights once, for use on other classes and datasets without a fit.

    All training images of the caches are taken; `shots` of each class speak for it at a time.

    Parameters
    ----------
    caches : FeatureCache, Path, str, or a sequence of these, optional
        Caches of one encoder; None takes the newest.
    output : Path or str
        The safetensors file; one of that name is replaced, once the new one is whole.
    shots : int
        K, images that a class's text is refined by.
    epochs : int
        Passes over all training images; 5 is the authors'.
    lr : float
        Learning rate of the first step; 1e-4 is the authors'.
    seed : int
        Seed of weights, shots and order.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    command : str
        The command that asked for it, for the file.
    progress : callable, optional
        Called with what is being done, the steps done and the steps in all.

    Returns
    -------
    MetaFile

    Raises
    ------
    InputError
        If the caches are of several encoders or have nothing to train on, or an argument cannot
        be meant; nothing is trained.
    CafeError
        If the file cannot be written; nothing is left behind.

    Examples
    --------
    >>> meta = cafe.meta_train("digits/nano.glyphs", output="meta.safetensors", shots=4, epochs=1)
    >>> meta.about["caches"][0]["dataset"], meta.weights.width
    ('digits', 512)
    """
    path = Path(output)
    if not path.absolute().parent.is_dir():  # said before the training, not after it
        raise InputError(f"no folder '{path.parent}' to write '{path.name}' to; choose another -o.")
    sources = open_caches(caches)
    _check_one_encoder(sources)
    if seed < 0:
        raise InputError(f"seeds must be at least 0; got {seed}.")
    shots, recipe = check_count("shots", shots), replace(PUBLISHED, epochs=epochs, lr=lr)
    trains = [_training_set(source, device) for source in sources]
    weights, loss = train_meta(trains, shots=shots, recipe=recipe, seed=seed, progress=progress)
    about = {
        "encoder": encoder_of_cache(sources[0]),
        "caches": [_provenance(source) for source in sources],
        "shots": shots,
        "seed": seed,
        "recipe": asdict(recipe),
        "loss": loss,
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": dict(sources[0].header.versions),
    }
    return save_meta(path, weights, about)


def _training_set(source: FeatureCache, device: str) -> TrainingSet:
    task = load_task(source)
    if "train" not in task.splits:
        raise InputError(
            f"the cache of {task.name} has no train split, only {', '.join(task.splits)}."
        )
    place = resolve_device(device)
    return TrainingSet(task.splits["train"].to(place), task.text.to(place))


def _provenance(source: FeatureCache) -> dict[str, Any]:
    header = source.header
    return {
        "dataset": header.dataset,
        "content_sha256": source.content_sha256,
        "class_names": list(header.class_names),
        "images": source.counts["train"],
    }


def _check_one_encoder(sources: Sequence[FeatureCache]) -> None:
    """Features of different encoders lie in different spaces."""
    first = encoder_of_cache(sources[0])
    for source in sources[1:]:
        other = encoder_of_cache(source)
        if source.width != sources[0].width or differ(first, other):
            raise InputError(
                f"'{sources[0].path}' is of {encoder_name(first)} and '{source.path}' of "
                f"{encoder_name(other)}; meta-train on caches of one encoder."
            )
