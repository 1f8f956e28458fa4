"""`cafe demo`."""

from __future__ import annotations

import shlex
from pathlib import Path

from cafe.errors import counted

from .. import options as opt
from ..output import note, say
from ..progress import progress_bar
from ..recorded_command import cache_with_digest
from ..result_tables import print_over_shots, print_protocol

SHOTS = (1, 4, 16)
SEEDS = 10


def demo(
    cache: opt.CacheHome = None, runs: opt.RunsHome = Path("runs"), verbose: opt.Verbose = False
) -> None:
    """See the whole job on digits that ship with cafe. A small CLIP encodes 1,797 of them.

    Example: cafe demo
    """
    from cafe.extract.extractor import Extractor
    from cafe.study.fit import fit

    again = "run it again to go on."
    extractor = Extractor("nano")
    note("1. The frozen encoder 'nano' sees every image once ...")
    with progress_bar("images", interrupted=again) as progress:
        digits = extractor.extract("digits", cache=cache, progress=progress)
    extraction = extractor.extraction_
    if extraction.was_there:
        note(f"   {digits.path} was there already.")
    else:
        images = counted(extraction.images, "image")
        note(f"   {images} in {extraction.seconds:.1f} s -> {digits.path}")
    note("2. Heads are fitted on the cached features ...")
    with progress_bar("fits", interrupted=again) as progress:
        words = ["fit", cache_with_digest(digits), "--shots", ",".join(map(str, SHOTS))]
        command = shlex.join(["cafe", *words, "--seeds", str(SEEDS)])
        record = fit(
            digits, shots=SHOTS, seeds=SEEDS, runs=runs, command=command, progress=progress
        )
    seconds = sum(result.seconds for result in record.results)
    note(f"   {len(record.results) * SEEDS} fits in {seconds:.1f} s", "")
    print_over_shots(record.results)
    print_protocol(record, verbose=verbose)
    say(f"Saved to {record.folder}", "")
    say("Next, on your own images (one folder per class), with a CLIP that has seen photographs:")
    say("  cafe train ./photos --model ViT-B-32")
    say("  cafe predict model new-images/")
