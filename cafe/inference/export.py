"""A saved head as a file for elsewhere, checked against the original, with a model card beside."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import load_recorded_encoder
from cafe.encoders.spatial import SpatialTower
from cafe.errors import CacheError, CafeError, InputError
from cafe.features.splits import Shots
from cafe.features.task import StoredFeatures
from cafe.files import move, temporary_folder
from cafe.inference.graphs import (
    Answer,
    HeadGraph,
    WholeGraph,
    answer_of,
    check_onnx,
    run_onnx,
    run_torch,
    write_onnx,
    write_torch,
)
from cafe.inference.images import ImageSource, list_images, pixel_inputs, read_pixels
from cafe.inference.model_card import write_card
from cafe.inference.neighbours import find_cache
from cafe.inference.predictor import record_of_head
from cafe.results.runs import HeadSelector, find_head
from cafe.results.saved_head import SavedHead, load_head, output_names

Format = Literal["safetensors", "onnx", "torch"]
SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch": ".pt2"}

TOLERANCE = 1e-3
"""Largest difference of a probability from the original; kernels differ in their last bits."""

_CHECKED = 64  # images or features that are compared


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes
    ----------
    path, card : Path
        The file, and its model card.
    difference : float
        Largest difference of a probability from the original.
    checked : str
        On what it was compared, in words.
    """

    path: Path
    card: Path
    difference: float
    checked: str


class _Sample(NamedTuple):
    """Input to compare on, two rows or more, and what it is in words."""

    rows: Tensor
    what: str


def export_head(
    run: Path | str,
    format: Format = "safetensors",  # noqa: A002  the word of the command line
    *,
    output: Path | str | None = None,
    with_encoder: bool = False,
    images: ImageSource | Iterable[ImageSource] | None = None,
    method: str | None = None,
    shots: Shots | None = None,
    seed: int | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    cache: Path | str | None = None,
) -> Export:
    """Write a head of a run for use elsewhere, and a model card beside it.

    Parameters
    ----------
    run : Path or str
        The folder of a run, a folder of runs (the newest counts), or a head's file.
    format : {"safetensors", "onnx", "torch"}
        "safetensors" is cafe's own file of a head; "onnx" runs in any ONNX runtime; "torch" is an
        archive of `torch.export` and needs PyTorch alone. The latter two give probabilities for any
        number of rows, and beside them the scores of `SavedHead.scores` where the head has them.
    output : Path or str, optional
        The file; None is `<dataset>.<method>` with the format's suffix, in the working directory.
    with_encoder : bool
        Encoder and head as one graph from 8-bit pixels on, in float32; not for "safetensors".
    images : optional
        Images to compare on, as `Predictor.predict` takes them; None compares on noise. A head
        alone is compared on the test features of its cache, where that is at hand.
    method, shots, seed : optional
        Which head of the run; see `cafe.results.runs.HeadSelector`.
    model, pretrained : str, optional
        Where the encoder is, if it came from a folder or a file.
    cache : Path or str, optional
        The cache folder; None is `$CAFE_CACHE`, else `./cache`.

    Returns
    -------
    Export

    Raises
    ------
    CafeError
        If packages, head or encoder are missing, or the file does not answer as the original does;
        nothing is left behind.

    Examples
    --------
    >>> made = cafe.export_head("runs/mine", "torch", output="digits.pt2")
    >>> program = torch.export.load(made.path).module()
    >>> program(torch.ones(5, 512)).shape
    torch.Size([5, 10])
    """
    if format not in SUFFIXES:
        raise InputError(f"unknown format '{format}'; use {', '.join(SUFFIXES)}.")
    if with_encoder and format == "safetensors":
        raise InputError("a safetensors file holds the head alone; with the encoder take onnx.")
    if format == "onnx":
        check_onnx()
    file = find_head(run, HeadSelector(method, shots, seed))
    saved = load_head(file)
    if saved.head.no_graph and format != "safetensors":
        raise InputError(
            f"a head of {saved.head.method} cannot be exported as {format}: {saved.head.no_graph}; "
            "take safetensors."
        )
    encoder = None
    if with_encoder:
        record = record_of_head(saved)
        encoder = load_recorded_encoder(record, model, pretrained, device="cpu", precision="fp32")
    sample = _pixels(encoder, images) if encoder else _features(saved, file, cache)
    name = f"{saved.about['dataset']}.{saved.about['method']}{SUFFIXES[format]}"
    path = Path(output or name.replace("/", "-"))
    return _export(saved, file, encoder, sample, path, format)


def _export(
    saved: SavedHead,
    file: Path,
    encoder: Encoder | None,
    sample: _Sample,
    path: Path,
    form: Format,
) -> Export:
    graph: nn.Module = HeadGraph(saved)
    original: Callable[[Tensor], Answer] = partial(answer_of, saved)
    if encoder is not None:
        network = encoder._network
        tower = None if saved.pool is None else SpatialTower(network, saved.pool)
        graph = WholeGraph(saved, network, encoder.preprocess.config, tower)
        original = partial(_by_encoder, saved, encoder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as temporary:
            made = temporary / "files" / path.name
            made.parent.mkdir()
            answer = _write(saved, file, graph, sample.rows, made, form)
            difference = _difference(answer, original(sample.rows))
            if not difference <= TOLERANCE:
                raise CafeError(
                    f"the {form} file's probabilities differ by {difference:.2g} from the "
                    f"original's on {sample.what}; nothing was kept. Try another format."
                )
            checked = (
                f"Compared with the original on {sample.what}: probabilities differ by "
                f"{difference:.1e} at most."
            )
            card = made.with_name(f"{path.name}.md")
            card.write_text(_card(saved, encoder, path.name, form, checked), encoding="utf-8")
            for part in made.parent.iterdir():  # large ONNX weights lie in a file of their own
                move(part, path.with_name(part.name))
    except OSError as error:
        raise CafeError(f"cannot write '{path}' ({error.strerror}); choose another -o.") from error
    return Export(path, path.with_name(f"{path.name}.md"), difference, sample.what)


def _difference(answer: Answer, original: Answer) -> float:
    """Largest difference of two answers, in whatever they give."""
    pairs = zip(answer, original, strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


def _by_encoder(saved: SavedHead, encoder: Encoder, pixels: Tensor) -> Answer:
    return answer_of(saved, pixel_inputs(encoder, pixels.permute(0, 2, 3, 1), saved.pool))


def _write(
    saved: SavedHead, file: Path, graph: nn.Module, rows: Tensor, path: Path, form: Format
) -> Answer:
    """Write one file and give its own answer."""
    if form == "safetensors":
        shutil.copyfile(file, path)
        return answer_of(load_head(path), rows)
    if form == "torch":
        write_torch(graph, rows[:2], path, saved.about)
        return run_torch(path, rows)
    given = "pixels" if isinstance(graph, WholeGraph) else "features"
    write_onnx(graph, rows[:2], path, (given, output_names(saved)), saved.about)
    return run_onnx(path, rows)


def _card(saved: SavedHead, encoder: Encoder | None, name: str, form: Format, checked: str) -> str:
    return write_card(
        saved,
        file=name,
        format=form,
        checked=checked,
        width=_width(saved),
        preprocess=encoder.preprocess.config if encoder else None,
    )


def _width(saved: SavedHead) -> int:
    """D."""
    if saved.zero_shot is None:
        raise InputError("this head was saved by an older cafe; fit it again to export it.")
    return saved.zero_shot.weights.shape[1]


def _features(saved: SavedHead, file: Path, home: Path | str | None) -> _Sample:
    """Test features of the head's cache, or noise."""
    width = _width(saved)
    try:
        cache = find_cache(saved, file, None if home is None else Path(home))
        count = min(cache.counts.get("test", 0), _CHECKED)
        if cache.width == width and count > 1:
            rows = torch.linspace(0, cache.counts["test"] - 1, count).long()
            found = StoredFeatures(cache, "test")[rows].inputs(spatial=saved.head.spatial)
            return _Sample(found, f"{count} test images' features")
    except CacheError:
        pass  # a head may travel without its cache
    form = (1 + saved.head.params["tokens"], width) if saved.head.spatial else (width,)
    noise = torch.randn(_CHECKED, *form, generator=torch.Generator().manual_seed(0))
    return _Sample(noise, f"{_CHECKED} features of noise")


def _pixels(encoder: Encoder, images: ImageSource | Iterable[ImageSource] | None) -> _Sample:
    """Pixels of the given images, or noise. (n, 3, S, S) uint8"""
    height, width = encoder.preprocess.size
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    if images is None:
        return _Sample(noise, "2 images of noise")
    read = read_pixels(encoder, list_images(images)[:_CHECKED])  # (n, S, S, 3)
    if not len(read):
        raise CafeError("none of the images to compare on can be read; name others.")
    real = read.permute(0, 3, 1, 2).contiguous()
    rows = torch.cat([real, noise[:1]]) if len(real) == 1 else real
    return _Sample(rows, f"{len(real)} image{'s' if len(real) > 1 else ''}")
