"""`cafe.train`: from labelled images to a model, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cafe.datasets.dataset import Dataset
from cafe.devices import ProductPrecision, resolve_device
from cafe.errors import CafeError, InputError, raise_as
from cafe.extract.extractor import Extractor
from cafe.extract.prepare import load_named
from cafe.features.pool import INDUCTIVE
from cafe.features.task import load_task
from cafe.inference.encode_for_training import Encoding, find_pool
from cafe.inference.fitted_model import has_own_test, model_of
from cafe.inference.model import Model, load_model
from cafe.methods.base import Context
from cafe.methods.transductive.lda_prior_pooled import FEW_WORDS
from cafe.progress import Progress
from cafe.results.model_record import ModelRecord
from cafe.results.saved_model import check_model_folder, remove_older_heads
from cafe.store import FeatureCache
from cafe.store.files import check_folder, lock_file
from cafe.study.fit_on_all import DEFAULT_METHODS, check_methods, fit_on_all
from cafe.study.pool import PoolLike, learning_of, pool_settings, took_few, trainable
from cafe.study.self_train import describe_self_training, self_training


def train(
    dataset: Dataset | FeatureCache | Path | str,
    *,
    method: str | Sequence[str] = DEFAULT_METHODS,
    output: Path | str | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    split_file: Path | str | None = None,
    data_root: Path | str | None = None,
    template: str | Sequence[str] | None = None,
    prompts: Path | str | None = None,
    class_names: Path | Sequence[str] | Mapping[str, str] | None = None,
    name: str | None = None,
    boxes: Path | str | None = None,
    context: Sequence[float] | None = None,
    proposals: Path | str | None = None,
    background: int | None = None,
    self_train: int | None = None,
    self_train_rounds: int = 1,
    cache: Path | str | None = None,
    on_error: Literal["skip", "fail"] = "skip",
    allow_missing: bool = False,
    download: bool = False,
    rebuild: bool = False,
    device: str = "auto",
    precision: ProductPrecision = "auto",
    decode: Literal["auto", "exact", "scaled"] = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    pool: PoolLike | None = None,
    command: str = "",
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    **settings: Any,
) -> Model:
    """Make a model of labelled images: encode them once, fit on all of them, estimate, calibrate.

    How good it will be on new images is estimated without a further label: on the dataset's own
    test split, if it brought one, by a head that is fitted on the rest; else by 10-fold
    cross-validation, in which every image is judged once, by a head that was fitted without it. The
    head that is kept is then fitted on all images, the test split among them.

    Parameters
    ----------
    dataset : Dataset, FeatureCache, Path or str
        What `Extractor.extract` takes: a folder with one sub-folder per class, a manifest, a name
        of `cafe datasets`; or a cache that is there.
    method : str or sequence of str
        Names of `cafe methods`. Of several the best on the held-out images is kept.
    output : Path or str, optional
        Folder that the model is saved in. A model of the same dataset that is there is replaced, or
        returned as it is if images and method are the same. None saves nothing.
    model, pretrained : str, optional
        The encoder, as of `Extractor`.
    split_file, data_root, template, prompts, class_names, name, boxes, context, proposals,
    background, cache, on_error,
    allow_missing, download, rebuild
        As of `Extractor.extract`.
    self_train, self_train_rounds : int, optional
        As of `cafe.fit`, on the proposals of this dataset without a label.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : {"auto", "fp32", "bf16"}
        Of the encoder and of the matrix products of training; "auto" goes on in the precision of a
        cache that is there, and takes bf16 where this CPU is faster at it.
    decode, batch_size, workers : optional
        As of `Extractor`.
    pool : Pool, FeatureCache, Path or str, optional
        Images without labels, as of `cafe.fit`, but not "test": that split is trained on too. A
        folder of images without labels is encoded, as the dataset is.
    command : str
        The command that asked for it, for the record.
    progress : callable, optional
        See `cafe.progress.Progress`; a step is an image, and then a method.
    note : callable, optional
        Called with each line that is good to know before the work begins.
    **settings
        Hyper-parameters, as of `cafe.fit`; each method takes those that it knows.

    Returns
    -------
    Model

    Raises
    ------
    CafeError
        If dataset, encoder or method cannot be had, or `output` cannot be written; what was there
        stays.
    BusyError
        If another process makes the same model.

    Examples
    --------
    >>> model = cafe.train("digits", method="gda", output="model")
    >>> model.predict(["photos/three.png"]).tolist()
    ['three']
    >>> model.record.estimate.source, model.record.estimate.images
    ('cross-validation', 1797)
    """
    methods = [method] if isinstance(method, str) else list(dict.fromkeys(method))
    methods = trainable(methods, pool, DEFAULT_METHODS)
    given = {} if pool is None or pool == "none" else {"pool": find_pool(pool, cache)}
    check_methods(methods, {**settings, **given})
    if self_train is not None:
        settings |= {"self_train": self_train, "self_train_rounds": self_train_rounds}
    machine = Context(resolve_device(device), precision)
    source = dataset
    if not isinstance(source, FeatureCache):
        source = load_named(
            source,
            template,
            class_names,
            name,
            data_root=data_root,
            split_file=split_file,
            download=download,
            allow_missing=allow_missing,
            boxes=boxes,
            context=context,
            proposals=proposals,
            background=background,
        )

    extractor = Extractor(
        model,
        pretrained,
        device=device,
        precision=precision,
        decode=decode,
        batch_size=batch_size,
        workers=workers,
    )
    how = {"prompts": prompts, "cache": cache, "on_error": on_error, "rebuild": rebuild}
    encoding = Encoding(extractor, how, progress, note)
    training = _Training(methods, settings, machine, command, encoding, given.get("pool"))
    if output is None:
        return training.fit(encoding.features_of(source))
    return _train_into(Path(output), source, training)


def _train_into(folder: Path, source: Dataset | FeatureCache, training: _Training) -> Model:
    """Train and save, unless the folder has the very model; it is locked from before the work."""
    name = source.header.dataset if isinstance(source, FeatureCache) else source.name
    problem = partial(
        raise_as, CafeError, f"cannot write '{folder}'", "choose another with output="
    )
    with ExitStack() as stack:
        with problem():
            check_folder(folder.parent)
            stack.enter_context(lock_file(folder.resolve()))
        earlier = check_model_folder(folder, name)
        cache = training.encoding.features_of(source)
        if earlier and training.is_of(earlier, cache):
            with suppress(InputError):  # its files do not belong together: it is made again
                made = load_model(folder)
                remove_older_heads(folder, made.record)
                return replace(made, was_there=True)
        made = training.fit(cache, earlier)
        with problem():
            made.save_locked(folder)
    return made


@dataclass(frozen=True)
class _Training:
    """What is fitted once there are features."""

    methods: Sequence[str]
    settings: Mapping[str, Any]
    context: Context
    command: str
    encoding: Encoding
    pool: PoolLike | None

    def is_of(self, record: ModelRecord, cache: FeatureCache) -> bool:
        """Whether a model is what training on a cache would give again."""
        if self.pool is not None or record.learning not in (None, INDUCTIVE):
            return False  # what is in the pool now is not known
        if "self_train" in self.settings:  # the proposals may be others
            return False
        found = (record.content_sha256, record.asked, dict(record.settings))
        wanted = (cache.content_sha256, tuple(self.methods), dict(self.settings))
        return found == wanted and record.precision in (None, self.context.products)

    def fit(self, cache: FeatureCache, earlier: ModelRecord | None = None) -> Model:
        """A model of all images of a cache, which knows the model that it follows."""
        settings = dict(self.settings)
        wanted = settings.pop("self_train", None), settings.pop("self_train_rounds", 1)
        settings |= self_training(cache, self.methods, *wanted)
        own_test = has_own_test(cache)
        judged = ["test"] if own_test and "test" in cache.counts else list(cache.counts)
        pool = self.encoding.pool_for(cache, self.pool)
        settings |= pool_settings(cache, pool, self.methods, judged)
        fitted = fit_on_all(
            load_task(cache),
            self.methods,
            settings,
            own_test=own_test,
            context=self.context,
            progress=self.encoding.progress,
        )
        if self.encoding.note is not None and took_few(fitted.head.params):
            self.encoding.note(f"{fitted.head.method}: {FEW_WORDS}.")
        return model_of(
            fitted,
            cache,
            asked=self.methods,
            settings=self.settings,
            precision=self.context.products,
            command=self.command,
            earlier=earlier,
            learning=learning_of(fitted.head.method, settings),
            remark=" ".join(describe_self_training(settings)),
        )
