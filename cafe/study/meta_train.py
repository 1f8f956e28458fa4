"""`cafe.meta_train`: Meta-Adapter's weights from caches to a file, and what using them means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cafe.devices import resolve_device
from cafe.errors import CafeError, InputError, raise_as
from cafe.features.task import load_task
from cafe.features.tensors import TrainingSet
from cafe.methods.checks import check_count
from cafe.methods.meta_adapter.training import PUBLISHED, train_meta
from cafe.methods.meta_adapter.weights import MetaFile, load_meta, save_meta
from cafe.progress import Progress
from cafe.results.record import RecordedEncoder
from cafe.results.run_folders import check_output
from cafe.store import FeatureCache, utc_now
from cafe.store.files import lock_file, real_path
from cafe.study.equal_texts import check_texts
from cafe.study.plan import open_caches, resolve_seeds

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
        See `cafe.progress.Progress`; a step is one of the optimiser.

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
    BusyError
        If another process writes it.

    Examples
    --------
    >>> meta = cafe.meta_train("digits/nano.glyphs", output="meta.safetensors", shots=4, epochs=1)
    >>> meta.about["caches"][0]["dataset"], meta.weights.width
    ('digits', 512)
    """
    path = Path(output)
    check_output(path, ".safetensors")
    if not path.absolute().parent.is_dir():  # refused before the training, not after it
        raise InputError(
            f"no folder '{path.parent}' to write '{path.name}' to; choose another with output=."
        )
    problem = raise_as(CafeError, f"cannot write '{path}'", "choose another with output=")
    with problem, lock_file(real_path(path)):
        return _train(path, open_caches(caches), shots, epochs, lr, seed, device, command, progress)


def _train(
    path: Path,
    sources: Sequence[FeatureCache],
    shots: int,
    epochs: int,
    lr: float,
    seed: int,
    device: str,
    command: str,
    progress: Progress | None,
) -> MetaFile:
    encoder = _shared_encoder(sources)
    (seed,) = resolve_seeds([seed])  # refuses a negative one
    shots, recipe = check_count("shots", shots), replace(PUBLISHED, epochs=epochs, lr=lr)
    trains = [_training_set(source, device) for source in sources]
    weights, loss = train_meta(trains, shots=shots, recipe=recipe, seed=seed, progress=progress)
    about = {
        "encoder": asdict(encoder),
        "caches": [
            {
                "dataset": source.header.dataset,
                "content_sha256": source.content_sha256,
                "class_names": list(source.header.class_names),
                "images": source.counts["train"],
            }
            for source in sources
        ],
        "shots": shots,
        "seed": seed,
        "recipe": asdict(recipe),
        "loss": loss,
        "command": command,
        "created": utc_now(),
        "versions": dict(sources[0].header.versions),
    }
    return save_meta(path, weights, about)


def _training_set(source: FeatureCache, device: str) -> TrainingSet:
    task = load_task(source)
    if "train" not in task.splits:
        raise InputError(
            f"the cache of {task.name} has no train split, only {', '.join(task.splits)}."
        )
    check_texts(task.text, ["meta-adapter"], {}, task.name)
    place = resolve_device(device)
    return TrainingSet(task.splits["train"].to(place), task.text.to(place))


def _shared_encoder(sources: Sequence[FeatureCache]) -> RecordedEncoder:
    """The encoder of all caches: features of different encoders lie in different spaces."""
    encoders = [RecordedEncoder.of_cache(source) for source in sources]
    for source, encoder in zip(sources, encoders, strict=True):
        if source.width != sources[0].width or encoder.differs_from(encoders[0]):
            raise InputError(
                f"'{sources[0].path}' is of {encoders[0].name} and '{source.path}' of "
                f"{encoder.name}; meta-train on caches of one encoder."
            )
    return encoders[0]


def meta_notes(source: FeatureCache, settings: Mapping[str, Any]) -> list[str]:
    """What a reader of a result has to know of the meta file that it used.

    Parameters
    ----------
    source : FeatureCache
        Whose features are classified.
    settings : mapping
        Of a study; its "meta" is the file.

    Returns
    -------
    list of str
        Sentences; none where there is no file, or nothing to say.

    Raises
    ------
    InputError
        If the file is none of `cafe meta-train`, or is for features of another width.
    """
    if settings.get("meta") is None:
        return []
    meta, notes = load_meta(settings["meta"]), []
    meta.check_width(source.width)
    names, encoder = meta.about["encoder"], RecordedEncoder.of_cache(source)
    weights = names.get("weights_sha256")
    if encoder.differs_from(RecordedEncoder(names["model"], names["pretrained"], weights)):
        notes.append(
            f"meta-adapter's weights were trained on features of {meta.encoder}, these are of "
            f"{encoder.name}: they may mean nothing here."
        )
    dataset = source.header.dataset
    if any(cache["dataset"] == dataset for cache in meta.about["caches"]):
        notes.append(
            f"meta-adapter's weights were trained on all training images of {dataset}: its result "
            "is not one of so few shots."
        )
    return notes
