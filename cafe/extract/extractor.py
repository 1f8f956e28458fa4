"""`cafe.Extractor`: `cafe extract` as a library call; knows no method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cafe.cluster import Engine, check_engine
from cafe.datasets.boxes.dataset import BoxDataset
from cafe.datasets.dataset import Dataset
from cafe.encoders.augmentation import Augmentation, check_view_splits
from cafe.encoders.decoding import Decode, check_decode
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.weights import DEFAULT_MODEL, NANO, TIMM, encoder_names
from cafe.errors import InputError
from cafe.extract.blocks import ExtractOptions, encode_blocks
from cafe.extract.encode import LoaderOptions
from cafe.extract.encode_images import OnError, encode_all
from cafe.extract.existing_cache import prompts_differ
from cafe.extract.extract import Extraction, ExtractionJob, decode_at_hand, precision_at_hand
from cafe.extract.image_sources import Images
from cafe.extract.importers.zero_shot_check import doubts_of_extraction
from cafe.extract.prepare import load_named, sentences_of, size_of_maps
from cafe.extract.ray import RayEngine
from cafe.extract.several_encoders import extract_all
from cafe.progress import Progress, log
from cafe.store import FeatureCache
from cafe.store.key import say_items
from cafe.store.paths import cache_folder, cache_name, cache_path


@dataclass(eq=False)
class Extractor:
    """A frozen encoder that turns datasets into caches; it is loaded when it is first needed.

    Parameters
    ----------
    model : str, optional
        An open_clip architecture, "nano", `timm:NAME` for an encoder of images alone, or a
        folder or JSON file with a configuration. None takes "nano" for the digits that come with
        cafe and "ViT-B-32" for all else.
    pretrained : str, optional
        A tag of open_clip, a checkpoint file, or "none"; None takes the model's own.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : str
        "auto", "fp32", "bf16" or "fp16". "auto" goes on in the precision of a cache or of an
        unfinished extraction, and else takes fp16 on a GPU, and bf16 on a CPU that is faster in it.
    decode : {"auto", "exact", "scaled"}
        Compute all pixels of image files, or scale large JPEGs while they are decoded, to no less
        than twice the encoder's input: two to three times faster at 12 megapixels, and features
        change by less than 0.001 in cosine. "auto" goes on as a cache or an unfinished extraction
        was made, and else scales.
    batch_size : int, optional
        Images per forward pass; None fits it to input size and device.
    workers : int, optional
        Threads that decode, and on a CPU encode too; None takes one per core, beside an
        accelerator 16 at most.
    engine : {"local", "ray"}
        Encode in this process, or on every device of a Ray cluster.

    Attributes
    ----------
    extraction_ : Extraction
        What the last `extract` did: `path`, `images`, `skipped`, `seconds`, `was_there`,
        `changes`.

    Examples
    --------
    >>> extractor = cafe.Extractor("nano")
    >>> cache = extractor.extract("digits")
    >>> cache.counts
    {'train': 600, 'val': 200, 'test': 997}
    >>> extractor.extraction_.skipped
    0
    >>> extractor.encode([np.zeros((32, 32, 3), np.uint8), torch.ones(3, 32, 32)]).shape
    (2, 512)
    """

    model: str | None = None
    pretrained: str | None = None
    _: KW_ONLY
    device: str = "auto"
    precision: str = "auto"
    decode: Literal["auto", "exact", "scaled"] = "auto"
    batch_size: int | None = None
    workers: int | None = None
    engine: Engine = "local"
    extraction_: Extraction = field(init=False, repr=False)
    _loaded: dict[tuple[str, str], Encoder] = field(default_factory=dict, init=False, repr=False)
    _decode: Decode = field(default="scaled", init=False, repr=False)  # of the last `extract`

    def __post_init__(self) -> None:
        check_decode(self.decode)
        check_engine(self.engine)

    def encoder(
        self,
        model: str | None = None,
        precision: str | None = None,
        decode: Decode | None = None,
    ) -> Encoder:
        """The encoder, loaded once.

        Parameters
        ----------
        model, precision, decode : str, optional
            What the extractor's own `None` and "auto" mean this time; `decode` of None is that of
            the last `extract`.
        """
        name = self.model or model or DEFAULT_MODEL
        wanted = precision if precision and self.precision == "auto" else self.precision
        if (name, wanted) not in self._loaded:
            loaded = load_encoder(name, self.pretrained, device=self.device, precision=wanted)
            self._loaded = {(name, wanted): loaded}  # memory for one at a time
        self._decode = (decode or self._decode) if self.decode == "auto" else self.decode
        self._loaded[name, wanted] = self._loaded[name, wanted].decoding(self._decode)
        return self._loaded[name, wanted]

    def encode(
        self,
        images: Images,
        *,
        on_error: OnError = "fail",
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Encode images in memory and in this process: nothing is stored.

        Files are decoded as the last `extract` did, and at first as for a new cache; images of
        Pillow, arrays and tensors are taken as large as they are.

        Parameters
        ----------
        images : path, image, array, tensor, or iterable of these
            Files, folders (all images in them, sorted), images of Pillow, arrays (H, W, C) and
            tensors (C, H, W) of 8 bits or from 0 to 1, batches of these, or a column of a table.
        on_error : {"fail", "skip"}
            What to do with an image that cannot be read: stop, or log it and give a row of NaN.
        progress : callable, optional
            Called with a stage, the images done and the images in all.

        Returns
        -------
        ndarray
            Raw features, as a cache holds them, in the order of the images. (N, D) float32

        Raises
        ------
        ImageError
            If an image cannot be read and `on_error` is "fail".
        CafeError
            If there is no image, or the encoder cannot be loaded.
        """
        options = LoaderOptions(self.batch_size, self.workers, progress)
        return encode_all(self.encoder(), images, options, on_error)

    def extract(
        self,
        dataset: Dataset | Path | str,
        *,
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
        views: int = 1,
        view_seed: int = 0,
        view_splits: Sequence[str] = ("train",),
        spatial: int | None = None,
        pre_projection: bool = False,
        cache: Path | str | None = None,
        on_error: Literal["skip", "fail"] = "skip",
        allow_missing: bool = False,
        download: bool = False,
        rebuild: bool = False,
        also: Sequence[Extractor] = (),
        progress: Progress | None = None,
        note: Callable[[str], None] | None = None,
    ) -> FeatureCache:
        """Encode a dataset once; of images that its cache has, the features are taken from there.

        `extraction_.changes` says how many images were added, removed, replaced and relabelled.

        Parameters
        ----------
        dataset : Dataset, Path or str
            A name of `cafe datasets`, a folder, a CSV, JSONL or Parquet table, tar shards
            (`shards/{000..009}.tar`), `hf:NAME[:CONFIG]`, or a loaded dataset.
        split_file : Path or str, optional
            A split in CoOp's JSON format, or a manifest.
        data_root : Path or str, optional
            Where datasets lie; None is `$CAFE_DATA`, else `./data`.
        template : str or sequence of str, optional
            Prompts with `{}` for the class name; None takes the dataset's.
        prompts : Path or str, optional
            JSON file: class name -> list of sentences; it replaces the templates.
        class_names : Path, sequence of str or mapping of str to str, optional
            Names to use instead: all in the order of the labels, or old name -> new name, or a file
            of either (`cafe.datasets.read_class_names`). None takes the dataset's; in prompts,
            words that a folder's name joins stand apart (`AnnualCrop` is `annual crop`).
        name : str, optional
            Name of the dataset and of its caches' folder; None takes the dataset's own.
        boxes : Path or str, optional
            Boxes on the images of a folder, each of which becomes an item: COCO's JSON, Pascal VOC,
            CSV, YOLO (`cafe.datasets.boxes.read.read_boxes`).
        context : sequence of float, optional
            Sides of the crops of a box, in those of the box; the mean of their features counts.
            None is 1 and 1.5.
        proposals : Path or str, optional
            Boxes of a class-agnostic detector on these images, as `boxes`. Those that overlap a
            label join the training images, those that overlap none are the class `background`, and
            those on images without labels get a cache of their own, `NAME-proposals`, for
            self-training (`cafe.datasets.boxes.proposals.join_proposals`).
        background : int, optional
            Background boxes of each split at most; None is as many as its largest class has. 0 is
            for images on which not all is labelled: there is no background.
        views, view_seed : int
            Views per training image, the plain one counted, and the seed of the others.
        view_splits : sequence of str
            The splits whose images have these views, among "train", "val" and "test".
        spatial : int, optional
            Store each image's spatial map too, averaged to a grid of this side at most (7 is
            common); it is what `vt-clip` needs, and far larger than the features. None stores none.
        pre_projection : bool
            Store the features before the image tower's last projection too, and that projection,
            which is what `prolip` needs. Not together with `spatial`.
        cache : Path or str, optional
            Folder of caches; None is `$CAFE_CACHE`, else `./cache`.
        on_error : {"skip", "fail"}
            What to do with an image that cannot be read.
        allow_missing, download, rebuild : bool
            Go on without files that the split names; fetch the dataset where torchvision can;
            encode anew and replace a cache that is there, or its prompts where they alone differ.
        also : sequence of Extractor
            Of other encoders: each image is decoded once for all, and each has a cache of its own.
        progress : callable, optional
            Called with the split's name, the images done and the images in all.
        note : callable, optional
            Called with each line that is good to know before the work begins: what the dataset left
            out or assumed, how large the spatial maps become, which sentences the encoder cuts, or
            that finished work of another extraction is removed; and after it, where zero-shot is no
            better than guessing. None logs them.

        Returns
        -------
        FeatureCache

        Raises
        ------
        CafeError
            If dataset, encoder or cache cannot be had; the message says which and what to do.
        """
        data = load_named(
            dataset,
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
        if data.crops and (views > 1 or spatial is not None):
            raise InputError("boxes have neither augmented views nor spatial maps; leave them out.")
        if data.crops and pre_projection:
            raise InputError("boxes have no features before the projection; leave them out.")
        sentences = sentences_of(data, prompts)
        options = ExtractOptions(
            augmentation=Augmentation(views, view_seed, check_view_splits(view_splits, views)),
            on_error=on_error,
            batch_size=self.batch_size,
            workers=self.workers,
            progress=progress,
            spatial=spatial,
            pre_projection=pre_projection,
        )
        note = note or log.info
        for line in data.notes:
            note(line)
        extractors = (self, *also)
        jobs = [each._job(data, sentences, cache, rebuild=rebuild) for each in extractors]
        pool = data.unlabelled if isinstance(data, BoxDataset) else None
        for job in jobs if spatial is not None else ():
            note(size_of_maps(data, job.encoder, spatial or 0))
        is_ray = any(each.engine == "ray" for each in extractors)
        engine = RayEngine(self._model(data), self.pretrained) if is_ray else encode_blocks
        done = extract_all(jobs, options, engine=engine, rebuild=rebuild, note=note)
        for extractor, extraction in zip(extractors, done, strict=True):
            extractor.extraction_ = extraction
        for extraction in done:
            if not extraction.was_there:
                which = f"{cache_name(extraction.path)}: " if also else ""
                for line in doubts_of_extraction(FeatureCache.open(extraction.path)):
                    note(f"{which}{say_items(line, extraction.noun)}")
        if pool is not None:  # after the labelled boxes: what is not needed at once comes last
            extra = [each._job(pool, sentences, cache, rebuild=rebuild) for each in extractors]
            extract_all(extra, options, engine=engine, rebuild=rebuild, note=note)
        return FeatureCache.open(jobs[0].path)

    def _model(self, dataset: Dataset) -> str:
        return self.model or (DEFAULT_MODEL if dataset.knows_content else NANO)

    def _job(
        self,
        dataset: Dataset,
        sentences: Sequence[Sequence[str]],
        cache: Path | str | None,
        *,
        rebuild: bool,
    ) -> ExtractionJob:
        model = self._model(dataset)
        names = encoder_names(model, self.pretrained)
        path = cache_path(cache_folder(cache), dataset.name, *names)
        if model.startswith(TIMM):
            sentences = [[] for _ in dataset.class_names]  # it has no text tower
        is_anew = rebuild and not prompts_differ(path, dataset, sentences)
        precision = None if is_anew else precision_at_hand(path, self.device)
        decode = None if is_anew else decode_at_hand(path)
        # a box may be small on a large image: its pixels are all that there is of it
        encoder = self.encoder(model, precision, "exact" if dataset.crops else decode or "scaled")
        return ExtractionJob(dataset, encoder, path, sentences)
