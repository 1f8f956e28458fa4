"""`cafe check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from cafe.errors import counted, escape_bytes

from .. import options as opt
from ..output import note, print_json, print_table, say
from ..progress import progress_bar

if TYPE_CHECKING:
    from cafe.curation.findings import Check

Source = Annotated[
    str | None,
    Argument(
        metavar="[CACHE|FOLDER]",
        help="A cache or its name; or a folder or table of images, which is encoded first "
        "[default: the newest cache].",
    ),
]
Images = Annotated[
    Path | None, Option("--images", help="Of a cache: the folder of its images, for their pixels.")
]
Method = Annotated[
    str | None,
    Option(
        help="Who judges the labels [default: auto; lda-prior where that takes minutes, "
        "map-probe where the texts say nothing]."
    ),
]
Page = Annotated[
    Path | None, Option("--output", "-o", metavar="FILE", help="Write a page with pictures too.")
]
SuggestionsFile = Annotated[
    Path, Option("--suggestions", metavar="FILE", help="The file of suggestions to write.")
]
FixSplits = Annotated[
    bool, Option("--fix-splits", help="Write splits.csv, in which copies are in one split.")
]
_MOST = 10  # images of a kind in the table


def check(
    source: Source = None,
    images: Images = None,
    method: Method = None,
    output: Page = None,
    suggestions: SuggestionsFile = Path("suggestions.csv"),
    fix_splits: FixSplits = False,
    model: opt.EncoderName = None,
    pretrained: opt.EncoderWeights = None,
    split_file: opt.SplitFile = None,
    data_root: opt.DataRoot = None,
    class_names: opt.ClassNames = None,
    template: opt.Template = None,
    prompts: opt.Prompts = None,
    cache: opt.CacheHome = None,
    device: opt.Device = "auto",
    as_json: opt.Json = False,
) -> None:
    """Find wrong labels, copies and outliers. Also leaks into the test split and poor class texts.

    It writes suggestions.csv: delete the rows that you do not agree with, then 'cafe relabel'.

    Example: cafe check ./photos -o check.html
    """
    from cafe.curation.check import check as run
    from cafe.curation.fix_splits import fix_splits as fix
    from cafe.curation.page import write_check_page

    interrupted = "nothing was written; images that are encoded are kept."
    with progress_bar("steps", interrupted=interrupted, quiet=as_json) as progress:
        found = run(
            source,
            images=images,
            method=method,
            model=model,
            pretrained=pretrained,
            split_file=split_file,
            data_root=data_root,
            class_names=class_names,
            template=template,
            prompts=prompts,
            cache=cache,
            device=device,
            progress=progress,
            note=note,
        )
        file = found.write_suggestions(suggestions)
        page = None if output is None else write_check_page(found, output, file)
    if as_json:
        print_json({**found.json, "suggestions": str(file), "page": page and str(page)})
    else:
        _print(found, file, page)
    if fix_splits and not any(len(group.splits) > 1 for group in found.copies):
        note("no copies are in two splits, so none are to be fixed.")
    elif fix_splits:
        splits = fix(found)
        note(f"{splits}: copies are in one split. Next: cafe extract ... --split-file {splits}")


def _print(found: Check, file: Path, page: Path | None) -> None:
    from cafe.curation.page import next_step
    from cafe.store.key import say_items

    items = counted(found.images, found.noun)
    say(f"{found.name}, {found.encoder}: {items} of {len(found.classes)} classes")
    _print_findings(found)
    print_table(
        ["problem", "found"],
        [[say_items(problem, found.noun), count] for problem, count in _problems(found)],
        numbers=(1,),
    )
    _print_classes(found)
    for line in found.notes:
        note(line)
    count = sum(row.is_change for row in found.suggestions)
    say(f"{file}: {counted(len(found.suggestions), 'suggestion')}, {count:,} with another class.")
    if page is not None:
        say(f"{page}: the same with pictures; open it in any browser.")
    if count:
        say(next_step(found, file))


def _problems(found: Check) -> list[tuple[str, str]]:
    across = sum(len(group.splits) > 1 for group in found.copies)
    return [
        (f"likely label errors, judged by {found.method}", f"{len(found.label_errors):,}"),
        ("groups of copies", f"{len(found.copies):,}"),
        ("of these in several splits", f"{across:,}"),
        ("test images with a copy in another split", f"{len(found.leaked):,}"),
        ("outliers", f"{len(found.outliers):,}"),
        ("almost blank or tiny images", f"{len(found.useless):,}"),
        ("pairs of classes with nearly equal texts", f"{len(found.near_texts):,}"),
        ("classes whose text does not fit their images", f"{len(found.poor_classes):,}"),
    ]


def _print_findings(found: Check) -> None:
    rows = [
        [escape_bytes(f.image.id), f.image.label, f.proposed, f"{100 * f.confidence:.0f}"]
        for f in found.label_errors[:_MOST]
    ]
    if rows:
        print_table([found.noun, "label", "looks like", "probability %"], rows, numbers=(3,))
        say("")


def _print_classes(found: Check) -> None:
    """Class counts at their ends, and the classes that zero-shot CLIP does not know."""
    from cafe.store.key import say_items

    counts = [(sum(row["images"].values()), row["name"]) for row in found.classes]
    (least, rare), (most, common) = min(counts), max(counts)
    noun = found.noun
    say(say_items(f"images of a class: {least:,} ({rare}) to {most:,} ({common})", noun))
    if found.zero_shot is not None:
        say(say_items(f"zero-shot accuracy on all images: {found.zero_shot:.2f} %", noun))
    for first, second, cosine in found.near_texts[:_MOST]:
        say(f"texts nearly equal: {first} and {second} (cosine {cosine:.3f})")
    for row in found.poor_classes[:_MOST]:
        other = f", mostly taken for {row['taken_for']}" if row["taken_for"] else ""
        say(f'{row["name"]}: zero-shot {row["zero_shot"]:.1f} %{other}: "{row["worst_prompt"]}"')
