"""`cafe serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .. import options as opt
from ..output import note, say
from ..progress import progress_bar

ModelFolder = Annotated[
    Path, Argument(metavar="MODEL", help="A folder that 'cafe train' wrote; corrections go there.")
]
Host = Annotated[
    str, Option(help="Address to listen on; a token is asked for where it is not this machine's.")
]
Port = Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Images = Annotated[
    str | None,
    Option(
        help="The dataset's images, as 'cafe train' took them [default: where it took them from]."
    ),
]
Unlabelled = Annotated[
    Path | None,
    Option(metavar="FOLDER", help="Images without labels, to choose from what to label next."),
]


def serve(
    model: ModelFolder,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    images: Images = None,
    unlabelled: Unlabelled = None,
    cache: opt.CacheHome = None,
    device: opt.Device = "auto",
) -> None:
    """Open a model as a web page. Look at images, correct labels, train again.

    Programs send images to /predict; /openapi.json describes it. Ctrl-C ends the server.

    Example: cafe serve model
    """
    from cafe.serve.server import serve as run

    saved = "labels and heads are saved."
    with progress_bar("images", interrupted=saved) as progress:
        run(
            model,
            host=host,
            port=port,
            images=images,
            unlabelled=unlabelled,
            cache=cache,
            device=device,
            progress=progress,
            note=note,
            on_ready=_tell,
        )


def _tell(address: str) -> None:
    say(address)
    note("Open this address in a browser; Ctrl-C ends the server.")
