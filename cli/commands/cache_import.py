"""`cafe cache import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cafe.errors import counted

from .. import options as opt
from ..caches import count_images, refuse_present, summarize_cache
from ..output import note, print_json, say
from ..signals import WHOLE, on_stop

Source = Annotated[
    Path,
    Argument(
        metavar="SOURCE",
        help="An npz file, or a folder of Tip-Adapter, CLIP_benchmark or clip-retrieval.",
    ),
]
Text = Annotated[
    Path | None,
    Option(
        help="Text features of the classes, where SOURCE has none: npz, npy or pt, (C, P, D), "
        "(C, D) or (D, C)."
    ),
]
Classes = Annotated[
    Path | None,
    Option(
        "--class-names",
        "--classes",
        metavar="FILE",
        help="Class names in the order of the labels: one a line, or a JSON list.",
    ),
]
Encode = Annotated[
    bool,
    Option(
        "--encode",
        help="Compute the text features of --class-names, in the prompts of --template, with "
        "NAME's model.",
    ),
]
KeysShots = Annotated[
    int | None, Option("--shots", help="Which keys_Kshots.pt of Tip-Adapter [default: most].")
]
Label = Annotated[
    str | None,
    Option(help="clip-retrieval's column of the class [default: label, else the folder]."),
]
LogitScale = Annotated[
    float | None, Option(help="The encoder's [default: as in the file, else 100].")
]


def import_(
    source: Source,
    name: opt.NewCache,
    text: Text = None,
    classes: Classes = None,
    encode: Encode = False,
    template: opt.Template = None,
    shots: KeysShots = None,
    label: Label = None,
    logit_scale: LogitScale = None,
    cache: opt.CacheHome = None,
    replace: opt.Replace = False,
    as_json: opt.Json = False,
) -> None:
    """Make a cache from features that were computed elsewhere. Nothing in them is unpickled.

    Example: cafe cache import caches/dtd dtd/RN50.openai --text texts.pt
    """
    from cafe.extract.importers import import_features
    from cafe.extract.importers.zero_shot_check import ZeroShotCheck, doubts
    from cafe.store.paths import cache_folder, named_path

    path = named_path(cache_folder(cache), name)
    refuse_present(path, replace=replace)
    checks: list[ZeroShotCheck] = []
    with on_stop(WHOLE):
        imported = import_features(
            source,
            path,
            text=text,
            classes=classes,
            encode=encode,
            template=template,
            shots=shots,
            label=label,
            logit_scale=logit_scale,
            replace=replace,
            note=note,
            check=checks.extend,
        )
    if as_json:
        first = vars(checks[0]) if checks else None
        every = {check.split: vars(check) for check in checks}
        print_json({**summarize_cache(imported), "zero_shot": first, "splits": every})
    else:
        classes_ = counted(len(imported.header.class_names), "class")
        say(f"{path}: {count_images(imported)}, {classes_}.")
        shown = ", ".join(f"{check.accuracy:.1f} % on {check.split}" for check in checks)
        say(f"zero-shot {shown}." if shown else "zero-shot: none, there is no text of the classes.")
        say(f"Next: cafe fit {name}{'' if shown else ' --method auto'}")
    for doubt in doubts(checks):
        note(f"cafe: {doubt}")
