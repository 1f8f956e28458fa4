"""The options that several commands share, each declared once; a command's own are in its file.

Where commands differ in an option's default, its type is left open: `Epochs[int]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from typer import Argument, Option

from . import completion

T = TypeVar("T")

# caches and datasets
CacheHome = Annotated[
    Path | None,
    Option("--cache", help="Folder of feature caches [default: $CAFE_CACHE, else ./cache]."),
]
CacheName = Annotated[
    str | None,
    Argument(
        metavar="[CACHE]",
        help="A cache file, or a name such as digits or digits/nano.glyphs [default: the newest].",
        autocompletion=completion.caches,
    ),
]
CacheNames = Annotated[
    list[str] | None,
    Argument(
        metavar="[CACHE]...",
        help="Cache files, or names such as digits/nano.glyphs [default: the newest].",
        autocompletion=completion.caches,
    ),
]
FitCaches = Annotated[
    list[str] | None,
    Argument(
        metavar="[CACHE]...",
        help="A cache file, or a name such as digits or digits/nano.glyphs [default: the newest]; "
        "several of the same images make one head.",
        autocompletion=completion.caches,
    ),
]
RequiredCache = Annotated[
    str,
    Argument(metavar="CACHE", help="A cache file or its name.", autocompletion=completion.caches),
]
NewCache = Annotated[
    str, Argument(metavar="NAME", help="dataset/model.pretrained of the new cache.")
]
DatasetFilter = Annotated[
    str | None,
    Option(
        "--dataset",
        help="Take the newest cache of this dataset.",
        autocompletion=completion.datasets_of_caches,
    ),
]
ModelFilter = Annotated[
    str | None,
    Option(
        "--model",
        help="Take the newest cache of this encoder.",
        autocompletion=completion.models_of_caches,
    ),
]
DataRoot = Annotated[
    Path | None, Option(help="Where datasets lie [default: $CAFE_DATA, else ./data].")
]
SplitFile = Annotated[Path | None, Option(help="A split in CoOp's JSON format, or a manifest.")]
EncoderName = Annotated[
    str | None,
    Option(
        help="An open_clip architecture, nano, timm:NAME (images alone), or a folder or "
        "JSON file with a configuration "
        "[default: ViT-B-32; nano for digits].",
        autocompletion=completion.models,
    ),
]
EncoderWeights = Annotated[
    str | None,
    Option(help="A tag of open_clip, a checkpoint file, or none [default: openai, else the only]."),
]
Template = Annotated[
    list[str] | None,
    Option(
        help="Prompt with {} for the class name; may be given several times "
        "[default: the dataset's]."
    ),
]
Prompts = Annotated[Path | None, Option(help="JSON file: class name -> list of sentences.")]
ClassNames = Annotated[
    Path | None,
    Option(
        help="File of class names to use instead: one a line in the order of the labels, or JSON "
        "(a list, or old name -> new name)."
    ),
]
Name = Annotated[
    str | None, Option(help="Name of the dataset in its cache's name [default: the folder's].")
]
Boxes = Annotated[
    Path | None,
    Option(
        help="Boxes on the images of a folder, each an item: COCO JSON, a folder of Pascal VOC or "
        "YOLO files, or CSV."
    ),
]
Context = Annotated[
    str | None,
    Option(help="Sides of a box's crops, in those of the box [default: 1,1.5]."),
]
Replace = Annotated[bool, Option("--replace", help="Replace a file of that name.")]

# extracting
OnError = Annotated[
    Literal["skip", "fail"], Option(help="Skip and record an image that cannot be read, or stop.")
]
AllowMissing = Annotated[
    bool, Option("--allow-missing", help="Go on without files that the split names.")
]
Download = Annotated[bool, Option("--download", help="Fetch the dataset where torchvision can.")]
Rebuild = Annotated[
    bool, Option("--rebuild", help="Encode anew; the prompts alone, if only they differ.")
]

# encoders
LocalModel = Annotated[
    str | None, Option(help="The encoder, where it is a folder or a JSON file of yours.")
]
LocalWeights = Annotated[
    str | None, Option(help="Its weights, where they are a checkpoint file of yours.")
]
TowerModel = Annotated[
    str | None,
    Option(
        "--encoder",
        help="Where the cache's encoder is, for coop and cpl, if it came from a folder or a file.",
    ),
]
TowerWeights = Annotated[
    str | None, Option("--pretrained", help="Weights of --encoder: a tag or a file.")
]
ForwardBatch = Annotated[
    int | None, Option("--batch-size", help="Images per forward pass [default: what fits].")
]
Workers = Annotated[
    int | None, Option(help="Threads or processes that decode images [default: one per core].")
]

# training
Methods = Annotated[
    list[str] | None,
    Option(
        "--method",
        "--methods",
        help="Names of 'cafe methods', with commas between; may be given several times.",
        autocompletion=completion.methods,
    ),
]
Shots = Annotated[
    T, Option(help="Training images per class: a count, several such as 1,4,16, or all.")
]
Seeds = Annotated[str, Option(help="How many seeds, or a list such as 0,5,7.")]
Validation = Annotated[T, Option(help="What hyper-parameters are chosen on.")]
AnyValidation = Validation[Literal["none", "few-shot", "full", "cv"]]
Ratio = Annotated[
    str | None,
    Option(
        help="Weight of the adapter, ratio * A(f) + (1 - ratio) * f: 0 to 1, learn, or auto; "
        "of fit, several (0.1,0.2,0.4) are chosen among by --validation [default: 0.2]."
    ),
]
Bottleneck = Annotated[
    str | None,
    Option(help="Hidden width: a number, or a part of the feature width [default: D/4]."),
]
Epochs = Annotated[T, Option(help="Passes over the training images.")]
LearningRate = Annotated[T, Option("--lr", help="Learning rate of the first step.")]
WeightDecay = Annotated[T, Option(help="Decoupled weight decay.")]
Pool = Annotated[
    str | None,
    Option(
        "--pool",
        metavar="test|CACHE|none",
        help="Images without labels to learn from: the test split, or all images of a cache; of "
        "train also a folder of images.",
    ),
]
ClassBalance = Annotated[
    str | None,
    Option(
        metavar="FILE|uniform",
        help="How many pool images are of each class, where it is known: JSON, name -> number.",
    ),
]
PromptsWeighting = Annotated[
    Literal["timo"] | None,
    Option(help="Weigh the prompts of a class by its shots, where a cache has several a class."),
]
Loss = Annotated[
    Literal["softmax", "sigmoid"] | None,
    Option(
        help="Of linear-probe: sigmoid fits each class against the rest, so that classes may "
        "overlap [default: softmax]."
    ),
]
BatchSize = Annotated[T, Option(help="Training images per step.")]
Proposals = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Boxes of a detector, as of --boxes: matched to the labelled ones they are more shots "
        "and background; those on images without labels are for --self-train.",
    ),
]
Background = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Background boxes of each split at most; 0 where not all is labelled [default: as "
        "many as its largest class has].",
    ),
]
SelfTrain = Annotated[
    int | None,
    Option(
        metavar="K",
        help="Fit again with the K surest proposals of each class, if held-out shots say that it "
        "helps.",
    ),
]
SelfTrainRounds = Annotated[int, Option(metavar="N", help="Rounds of --self-train, at most.")]
PoolOfProposals = Annotated[
    str | None,
    Option(
        "--proposals",
        metavar="CACHE",
        help="Proposals without a label, for --self-train [default: those of 'cafe extract "
        "--proposals'].",
    ),
]
MetaWeights = Annotated[
    str | None,
    Option("--meta", metavar="FILE", help="meta-adapter's weights, of 'cafe meta-train'."),
]
Precision = Annotated[T, Option(help="Floating-point precision.")]
ProductPrecision = Precision[Literal["auto", "fp32", "bf16"]]
Decode = Annotated[
    Literal["auto", "exact", "scaled"],
    Option(help="Compute all pixels, or scale large JPEGs to no less than twice what is needed."),
]
Engine = Annotated[
    Literal["local", "ray"], Option(help="Work on this machine, or on all of a Ray cluster.")
]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]

# runs and saved heads
RunsHome = Annotated[Path, Option("--runs", help="Folder that runs are saved in.")]
RunName = Annotated[
    str,
    Argument(metavar="RUN", help="A model's or run's folder, a folder of runs, or a head's file."),
]
HeadMethod = Annotated[
    str | None,
    Option(
        "--method",
        help="Take this method's head [default: the best on held-out shots].",
        autocompletion=completion.methods,
    ),
]
HeadShots = Annotated[
    str | None, Option("--shots", help="Take the head of this many shots [default: the most].")
]
HeadSeed = Annotated[
    int | None, Option("--seed", help="Take the head of this seed [default: the first].")
]

# what is asked before
Yes = Annotated[bool, Option("--yes", "-y", help="Do not ask.")]

# output
Verbose = Annotated[bool, Option("--verbose", "-v", help="Tell the whole protocol.")]
Output = Annotated[T, Option("--output", "-o", metavar="FILE", help="The file to write.")]
Json = Annotated[bool, Option("--json", help="Print JSON on stdout and nothing else.")]
