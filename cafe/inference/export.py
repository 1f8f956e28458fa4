"""Export of a saved head: a file that is compared with the original, and its model card."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import load_recorded_encoder
from cafe.errors import CacheError, CafeError, InputError, counted, raise_as
from cafe.extract.encode_images import pixel_inputs, read_pixels
from cafe.extract.image_sources import ImageSource, list_images
from cafe.features.splits import Shots
from cafe.features.task import StoredFeatures
from cafe.inference import graphs
from cafe.inference.graphs import Answer, HeadGraph, ImageGraph, expected_answer
from cafe.inference.head_encoders import record_of_head
from cafe.inference.model_card import write_card
from cafe.inference.neighbours import find_cache
from cafe.results.run_folders import check_output
from cafe.results.runs import HeadSelector, find_head
from cafe.results.saved_head import SavedHead, load_head
from cafe.store.files import lock_file, move, real_path, temporary_folder
from cafe.store.paths import safe_name

Format = Literal["safetensors", "onnx", "torch"]
SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch": ".pt2"}

TOLERANCE = 1e-3
"""Largest difference of a probability from the original: runtimes differ in the last bits."""

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
        What it was compared on, in words.
    """

    path: Path
    card: Path
    difference: float
    checked: str


class _Sample(NamedTuple):
    """Input to compare on, two rows or more, and its description."""

    rows: Tensor
    what: str


def export_head(
    run: Path | str,
    format: Format | None = None,  # noqa: A002  the word of the command line
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
    format : {"safetensors", "onnx", "torch"}, optional
        "safetensors" is cafe's own file of a head; "onnx" runs in any ONNX runtime; "torch" is an
        archive of `torch.export` and needs PyTorch alone. The latter two give probabilities for any
        number of rows, and beside them the scores of `SavedHead.scores` where the head has them.
        None goes by the suffix of `output` (.onnx, .pt2), else it is "safetensors".
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
        If packages, head or encoder are missing, the file does not answer as the original does,
        it cannot be written, or something else is there; nothing is left behind.
    BusyError
        If another process writes the file.

    Examples
    --------
    >>> made = cafe.export_head("runs/mine", "torch", output="digits.pt2")
    >>> program = torch.export.load(made.path).module()
    >>> program(torch.ones(5, 512)).shape
    torch.Size([5, 10])
    """
    form = format or _format_by(output)
    if form not in SUFFIXES:
        raise InputError(f"unknown format '{form}'; use {', '.join(SUFFIXES)}.")
    if with_encoder and form == "safetensors":
        raise InputError(
            "a safetensors file holds the head alone; with_encoder=True needs format='onnx' or "
            "'torch'."
        )
    if form == "onnx":
        graphs.check_onnx()
    file = find_head(run, HeadSelector(method, shots, seed))
    saved = load_head(file)
    if saved.head.no_graph and form != "safetensors":
        raise InputError(
            f"a head of {saved.head.method} cannot be exported as {form}: {saved.head.no_graph}; "
            "take safetensors."
        )
    encoder = None
    if with_encoder:
        record = record_of_head(saved)
        encoder = load_recorded_encoder(record, model, pretrained, device="cpu", precision="fp32")
    sample = _pixels(encoder, images) if encoder else _features(saved, file, cache)
    name = f"{saved.about['dataset']}.{saved.about['method']}{SUFFIXES[form]}"
    path = Path(output or safe_name(name))
    check_output(path, SUFFIXES[form])
    problem = raise_as(CafeError, f"cannot write '{path}'", "choose another file")
    with problem:
        path = real_path(path)
        with lock_file(path):
            return _export(saved, file, encoder, sample, path, form)


def _format_by(output: Path | str | None) -> Format:
    """The format whose suffix a file has."""
    named: dict[str, Format] = {".onnx": "onnx", ".pt2": "torch"}
    return named.get(Path(output or "").suffix.lower(), "safetensors")


def _export(
    saved: SavedHead,
    file: Path,
    encoder: Encoder | None,
    sample: _Sample,
    path: Path,
    form: Format,
) -> Export:
    """Write file and card into a temporary folder, compare, and move them to their place."""
    graph = ImageGraph(saved, encoder) if encoder else HeadGraph(saved)
    inputs = sample.rows
    if encoder is not None:
        pixels, before = inputs.permute(0, 2, 3, 1), saved.head.pre_projection
        inputs = pixel_inputs(encoder, pixels, saved.pool, before)
    with temporary_folder(path.parent) as temporary:
        made = temporary / "files" / path.name
        made.parent.mkdir()
        answers = zip(
            _write(saved, file, graph, sample.rows, made, form),
            expected_answer(saved, inputs),
            strict=True,
        )
        difference = max((answer - expected).abs().max().item() for answer, expected in answers)
        if not difference <= TOLERANCE:  # nan is no agreement either
            raise CafeError(
                f"the {form} file's probabilities differ by {difference:.2g} from the original's "
                f"on {sample.what}; nothing was kept. Try another format."
            )
        card = write_card(
            saved,
            file=path.name,
            format=form,
            checked=f"Compared with the original on {sample.what}: probabilities differ by "
            f"{difference:.1e} at most.",
            width=_feature_width(saved),
            preprocess=encoder.preprocess.config if encoder else None,
        )
        made.with_name(f"{path.name}.md").write_text(card, encoding="utf-8")
        # large ONNX weights are a file of their own; the file that names them comes last
        for part in sorted(made.parent.iterdir(), key=lambda part: part == made):
            move(part, path.with_name(part.name))
    return Export(path, path.with_name(f"{path.name}.md"), difference, sample.what)


def _write(
    saved: SavedHead, file: Path, graph: nn.Module, rows: Tensor, path: Path, form: Format
) -> Answer:
    """Write one file, run it, and return its answer."""
    if form == "safetensors":
        shutil.copyfile(file, path)
        return expected_answer(load_head(path), rows)
    if form == "torch":
        graphs.write_torch(graph, rows[:2], path, saved)
        return graphs.run_torch(path, rows)
    graphs.write_onnx(graph, rows[:2], path, saved)
    return graphs.run_onnx(path, rows)


def _feature_width(saved: SavedHead) -> int:
    if saved.width is None:
        raise InputError("this head was saved by an older cafe; fit it again to export it.")
    return saved.width


def _features(saved: SavedHead, file: Path, folder: Path | str | None) -> _Sample:
    """Test features of the head's cache, or noise, as the head takes them; see `Head.logits`."""
    width = _feature_width(saved)
    try:
        cache = find_cache(saved, file, None if folder is None else Path(folder))
        count = min(cache.counts.get("test", 0), _CHECKED)
        if cache.width == width and count > 1:
            rows = torch.linspace(0, cache.counts["test"] - 1, count).long()
            inputs = StoredFeatures(cache, "test")[rows].inputs(**saved.head.takes)
            return _Sample(inputs, f"{count} test image{'s' * (count > 1)}' features")
    except CacheError:
        pass  # a head may travel without its cache
    noise = torch.randn(_CHECKED, *saved.input_shape, generator=torch.Generator().manual_seed(0))
    return _Sample(noise, f"{_CHECKED} features of noise")


def _pixels(encoder: Encoder, images: ImageSource | Iterable[ImageSource] | None) -> _Sample:
    """Pixels of the given images, or noise. (n, 3, S, S) uint8"""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, *encoder.preprocess.size)
    # two rows, because tracing takes a size of one for a constant
    noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    if images is None:
        return _Sample(noise, "2 images of noise")
    real = read_pixels(encoder, list_images(images)[:_CHECKED]).permute(0, 3, 1, 2).contiguous()
    if not len(real):
        raise CafeError("none of the images to compare on can be read; name others.")
    # a row of noise beside a single image, because tracing takes a size of one for a constant
    rows = torch.cat([real, noise[:1]]) if len(real) == 1 else real
    return _Sample(rows, counted(len(real), "image"))
