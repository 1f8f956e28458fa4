"""`cafe train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from cafe.errors import counted, escape_bytes

from .. import completion
from .. import options as opt
from ..class_balance import read_class_balance
from ..output import megabytes, note, print_json, print_table, say
from ..parsing import parse_context, parse_methods, parse_ratio, without_none
from ..progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cafe.inference.model import Model
    from cafe.results.estimate import Share

DatasetName = Annotated[
    str,
    Argument(
        metavar="DATASET",
        help="What 'cafe extract' takes: a folder, a table, shards, or a known dataset.",
        autocompletion=completion.datasets,
    ),
]
Folder = Annotated[
    Path, Option("--output", "-o", metavar="FOLDER", help="The folder of the model to write.")
]
Methods = Annotated[
    list[str] | None,
    Option(
        "--method",
        "--methods",
        help="A name of 'cafe methods', or several, again or with commas between, of which the "
        "best on held-out images is kept [default: auto,map-probe].",
        autocompletion=completion.methods,
    ),
]
_MOST_CLASSES = 20  # in the table; of more, those that are right least often
_INTERRUPTED = "images that are encoded are kept: run the same command again to go on."


def train(
    dataset: DatasetName,
    output: Folder = Path("model"),
    method: Methods = None,
    model: opt.EncoderName = None,
    pretrained: opt.EncoderWeights = None,
    name: opt.Name = None,
    boxes: opt.Boxes = None,
    context: opt.Context = None,
    proposals: opt.Proposals = None,
    background: opt.Background = None,
    self_train: opt.SelfTrain = None,
    self_train_rounds: opt.SelfTrainRounds = 1,
    split_file: opt.SplitFile = None,
    data_root: opt.DataRoot = None,
    template: opt.Template = None,
    prompts: opt.Prompts = None,
    class_names: opt.ClassNames = None,
    ratio: opt.Ratio = None,
    bottleneck: opt.Bottleneck = None,
    pool: opt.Pool = None,
    class_balance: opt.ClassBalance = None,
    prompts_weighting: opt.PromptsWeighting = None,
    loss: opt.Loss = None,
    epochs: opt.Epochs[int | None] = None,
    lr: opt.LearningRate[float | None] = None,
    weight_decay: opt.WeightDecay[float | None] = None,
    cache: opt.CacheHome = None,
    device: opt.Device = "auto",
    precision: opt.ProductPrecision = "auto",
    decode: opt.Decode = "auto",
    batch_size: opt.ForwardBatch = None,
    workers: opt.Workers = None,
    on_error: opt.OnError = "skip",
    allow_missing: opt.AllowMissing = False,
    download: opt.Download = False,
    rebuild: opt.Rebuild = False,
    verbose: opt.Verbose = False,
    as_json: opt.Json = False,
) -> None:
    """Make a model of labelled images. It is fitted on all of them, and its accuracy is estimated.

    Again after images were added, it does the new work and says what changed.

    Example: cafe train ./photos -o model
    """
    from cafe.inference.train import train as run
    from cafe.study.fit_on_all import DEFAULT_METHODS

    options = without_none(
        output=output,
        model=model,
        pretrained=pretrained,
        cache=cache,
        precision=precision,
        device=device,
        decode=decode,
        batch_size=batch_size,
        workers=workers,
        split_file=split_file,
        data_root=data_root,
        download=download,
        on_error=on_error,
        allow_missing=allow_missing,
        rebuild=rebuild,
        name=name,
        template=template,
        prompts=prompts,
        class_names=class_names,
        boxes=boxes,
        proposals=proposals,
        background=background,
        self_train=self_train,
        self_train_rounds=self_train_rounds,
        bottleneck=bottleneck,
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        pool=pool,
        class_balance=read_class_balance(class_balance),
        prompts_weighting=prompts_weighting,
        loss=loss,
        context=parse_context(context),
        **parse_ratio(ratio),
    )
    options["method"] = parse_methods(method) or DEFAULT_METHODS
    command = escape_bytes(shlex.join(["cafe", *sys.argv[1:]]))
    with progress_bar("steps", interrupted=_INTERRUPTED, quiet=as_json) as progress:
        made = run(dataset, command=command, progress=progress, note=note, **options)
    needed = (split_file, boxes, data_root, class_names, name)  # to find its cache by the dataset
    by_cache = any(given is not None for given in needed) or not Path(dataset).exists()
    looked_at = [made.record.cache if by_cache else dataset]
    looked_at += [] if cache is None else ["--cache", str(cache)]
    _print(made, output, looked_at, as_json=as_json, verbose=verbose)


def _print(
    model: Model, folder: Path, looked_at: Sequence[str], *, as_json: bool, verbose: bool
) -> None:
    from cafe.results.model_record import changes
    from cafe.store.key import noun_of, say_items

    record = model.record
    if as_json:
        print_json({**record.json, "folder": str(folder), "was_there": model.was_there})
        return
    noun = noun_of(record.cache_key)
    items, classes = counted(sum(record.images), noun), len(record.class_names)
    say(
        f"{record.dataset}, {record.encoder.name}: {record.method} on all {items} of "
        f"{classes} classes"
    )
    if record.estimate is None:
        say(say_items("accuracy on new images: not known, because no class has two images", noun))
    else:
        say(say_items(f"accuracy on new images: {record.estimate.words}", noun))
        _print_classes(record.class_names, record.estimate.per_class, noun)
    if model.was_there:
        say(say_items(f"{folder} is there already, made of the same images in the same way.", noun))
        return
    for line in changes(record):
        say(f"since the model before: {line}")
    size = megabytes(folder / record.head)
    say("", record.words if verbose else f"{record.brief} (--verbose tells more.)")
    boxes = " --boxes proposals.json" if noun == "box" else ""
    say(f"{folder}: {size}. Next: cafe predict {folder} new-images/{boxes}")
    check = escape_bytes(shlex.join(["cafe", "check", *looked_at]))
    say(f"Are the labels right? Look: {check}. Correct them in the browser: cafe serve {folder}")


def _print_classes(class_names: Sequence[str], shares: Sequence[Share], noun: str) -> None:
    """One row per class; of many classes those that are right least often."""
    from cafe.datasets.text_files import distinct_names
    from cafe.store.key import say_items

    rows = list(zip(distinct_names(class_names), shares, strict=True))
    more = len(rows) - _MOST_CLASSES
    if more > 0:
        rows = sorted(rows, key=lambda row: row[1].accuracy or 0.0)[:_MOST_CLASSES]
    table = []
    for name, share in rows:
        low, high = share.interval
        accuracy = "-" if share.accuracy is None else f"{share.accuracy:.1f}"
        table.append([name, str(share.images), accuracy, f"{low:.0f} to {high:.0f}"])
    judged = say_items("images judged", noun)
    print_table(["class", judged, "right %", "95 %"], table, numbers=(1, 2, 3))
    if more > 0:
        say(f"and {more} more classes, which are right at least as often")
