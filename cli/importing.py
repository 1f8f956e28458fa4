"""`cafe cache import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cafe.errors import InputError

from .options import CacheHome, Json, say

if TYPE_CHECKING:
    from cafe.extract.importers.text_features import TextFeatures
    from cafe.extract.importers.zero_shot_check import ZeroShotCheck
    from cafe.store import FeatureCache


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="An npz file, or a folder of Tip-Adapter, CLIP_benchmark or clip-retrieval.",
        ),
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="dataset/model.pretrained of the new cache.")
    ],
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text features of the classes, where SOURCE has none: npz, npy or pt, (C, P, D), "
            "(C, D) or (D, C)."
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Class names in the order of the labels: one a line, or a JSON list."),
    ] = None,
    encode: Annotated[
        bool,
        typer.Option("--encode", help="Compute the text features of --classes with NAME's model."),
    ] = False,
    template: Annotated[
        list[str] | None,
        typer.Option(help="With --encode: a prompt with {} for the class; may be repeated."),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="Which keys_Kshots.pt of Tip-Adapter [default: most].")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="clip-retrieval's column of the class [default: label, else the folder]."
        ),
    ] = None,
    logit_scale: Annotated[
        float | None, typer.Option(help="The encoder's [default: as in the file, else 100].")
    ] = None,
    cache: CacheHome = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a cache of that name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a cache from features that were computed elsewhere; nothing in them is unpickled.

    Example: cafe cache import caches/dtd dtd/RN50.openai --text texts.pt
    """
    from cafe.extract.importers import import_features
    from cafe.extract.importers.zero_shot_check import check_zero_shot
    from cafe.store.paths import cache_folder, named_path

    path = named_path(cache_folder(cache), name)
    if path.exists() and not replace:
        raise InputError(f"'{path}' is there already; choose another name, or use --replace.")
    if encode and (text is not None or classes is None):
        raise InputError("--encode computes the text of --classes FILE; give that, and no --text.")
    if template and not encode:
        raise InputError("--template is of the text that --encode computes; add --encode.")
    made = import_features(
        source,
        path,
        text=_encoded(path, classes, template) if encode and classes else text,
        classes=classes,
        shots=shots,
        label=label,
        logit_scale=logit_scale,
    )
    _report(made, name, check_zero_shot(made), as_json=as_json)


def _encoded(path: Path, classes: Path, templates: list[str] | None) -> TextFeatures:
    from cafe.datasets.prompts import TEMPLATE_SETS, check_templates, templates_for
    from cafe.encoders.encoder import load_encoder
    from cafe.extract.importers.text_features import encode_classes, read_class_names
    from cafe.store.paths import cache_name

    dataset, _, encoder = cache_name(path).partition("/")
    model, _, pretrained = encoder.partition(".")
    known = templates_for(dataset if dataset in TEMPLATE_SETS else "default")
    wanted = check_templates(templates) if templates else known
    return encode_classes(load_encoder(model, pretrained), read_class_names(classes), wanted)


def _report(made: FeatureCache, name: str, found: ZeroShotCheck, *, as_json: bool) -> None:
    from .cache_summary import summary

    if as_json:
        typer.echo(json.dumps({**summary(made), "zero_shot": vars(found)}))
    else:
        images = ", ".join(f"{count:,} {split}" for split, count in made.counts.items())
        typer.echo(f"{made.path}: {images} images, {len(made.header.class_names)} classes.")
        typer.echo(f"zero-shot {found.accuracy:.1f} % on {found.split}.")
        typer.echo(f"Next: cafe fit {name}")
    if found.at_chance:
        say(
            f"cafe: zero-shot accuracy is {found.accuracy:.1f} % on {found.images:,} images, where "
            f"guessing gives {found.chance:.1f} %: the classes of texts and labels are probably "
            "in different orders, or the texts are of another encoder."
        )
