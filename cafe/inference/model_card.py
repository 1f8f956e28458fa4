"""The model card of an exported head: what it is, how good, on what, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cafe.results.saved_head import SavedHead, output_names

_LOAD: Mapping[str, str] = {
    "safetensors": """\
import cafe, torch

saved = cafe.load_head("{file}")
probabilities = saved.probabilities(torch.as_tensor({input}))  # {form}{scores}
names = [saved.class_names[i] for i in probabilities.argmax(1)]""",
    "onnx": """\
import json, onnxruntime

session = onnxruntime.InferenceSession("{file}")
{listed} = session.run(None, {{"{input}": {input}}})  # {form}
classes = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
names = [classes[i] for i in probabilities.argmax(1)]""",
    "torch": """\
import json, torch  # cafe is not needed

extra = {{"cafe.json": ""}}
program = torch.export.load("{file}", extra_files=extra).module()
{answer} = program(torch.as_tensor({input}))  # {form}
classes = json.loads(extra["cafe.json"])["class_names"]
names = [classes[i] for i in probabilities.argmax(1)]""",
}


def loading(
    file: str, form: str, saved: SavedHead, width: int, size: tuple[int, int] | None
) -> str:
    """Python that loads an exported file; `size` is the encoder's input, None for a head alone."""
    taken = f"{1 + saved.head.params['tokens']}, {width}" if saved.head.spatial else str(width)
    rows = f"float32 (N, {taken})" if size is None else f"uint8 (N, 3, {size[0]}, {size[1]})"
    names = output_names(saved)
    return _LOAD[form].format(
        file=file,
        input="features" if size is None else "pixels",
        answer=", ".join(names),
        listed=f"({', '.join(names)})" if len(names) > 1 else f"({names[0]},)",
        scores="\nscores = saved.scores(torch.as_tensor(features))" if len(names) > 1 else "",
        form=f"{rows} -> (N, {len(saved.class_names)})",
    )


def write_card(
    saved: SavedHead, code: str, check: str, preprocess: Mapping[str, Any] | None
) -> str:
    """The card of a head as Markdown.

    Parameters
    ----------
    saved : SavedHead
    code : str
        Python that loads the file.
    check : str
        In words: how the file was compared with the original.
    preprocess : mapping or None
        The encoder's, where it is inside.
    """
    about = saved.about
    encoder = about["encoder"]
    parts = [
        f"# {about['method']} on {about['dataset']}",
        f"A classifier of {len(saved.class_names)} classes over image features of "
        f"{encoder['model']} ({encoder['pretrained']}), fitted by cafe.",
        "## Use",
        _input(preprocess),
        _SPATIAL if saved.head.spatial and preprocess is None else "",
        f"```python\n{code}\n```",
        check,
        "## Accuracy",
        _accuracy(about),
        about.get("protocol", ""),
        "## How sure it is",
        _sureness(about.get("calibration", {})),
        _SCORES if saved.has_scores else "",
        "## Limits",
        _limits(about),
        "## Details",
        _details(about),
        f"Classes, in the order of the columns: {', '.join(saved.class_names)}.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _input(preprocess: Mapping[str, Any] | None) -> str:
    if preprocess is None:
        return (
            "The input is the encoder's image feature as it comes out, not normalised. Features of "
            "another encoder, or of other weights, mean nothing to this head."
        )
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    edges = _EDGES[preprocess["resize_mode"]].format(**preprocess)
    told = (
        f"`pixels` are 8-bit RGB, channels first: the upright image resized "
        f"({preprocess['interpolation']}) to {width} x {height} so that {edges}. Scaling and "
        "normalising are inside the graph, which computes in float32."
    )
    lines = _RESIZE.get(preprocess["resize_mode"])
    if lines is None:
        return told
    way = str(preprocess["interpolation"]).upper()
    code = "\n".join([_OPEN, *lines, _STACK]).format(width=width, height=height, way=way)
    return f"{told}\n\n```python\n{code}\n```"


_EDGES = {
    "shortest": "it fills that, and what is over is cropped on both sides",
    "longest": "it fits into that, and the rest is filled with {fill_color}",
    "squash": "both sides fit, whatever its form",
}
_OPEN = """\
import numpy as np
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")"""
_RESIZE = {
    "shortest": (
        "scale = max({width} / image.width, {height} / image.height)",
        "size = max(int(scale * image.width), {width}), max(int(scale * image.height), {height})",
        "image = image.resize(size, Image.Resampling.{way})",
        "left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)",
        "image = image.crop((left, top, left + {width}, top + {height}))",
    ),
    "squash": ("image = image.resize(({width}, {height}), Image.Resampling.{way})",),
}
_STACK = "pixels = np.array(image).transpose(2, 0, 1)[None]"


def _accuracy(about: Mapping[str, Any]) -> str:
    if "accuracy" not in about:
        return "Its file does not tell: it was saved before accuracies were kept."
    rows = [(f"this head, {about['method']}", about["accuracy"]), *about["baselines"].items()]
    shots, seed = about["shots"], about["seed"]
    lines = [f"| {name} | {value:.2f} |" for name, value in rows]
    head = f"| {shots} shots, seed {seed} | top-1 % on the test images |\n| --- | ---: |"
    return "\n".join([head, *lines])


def _sureness(calibration: Mapping[str, Any]) -> str:
    temperature = calibration.get("temperature")
    if temperature is None:
        return "Probabilities are not calibrated: no held-out image was left to do it on."
    on = {
        "validation": "validation images",
        "out-of-fold": "training images, each judged by a fit without it",
    }[calibration["source"]]
    return (
        f"Logits are divided by a temperature of {temperature:.3f}, fitted on "
        f"{calibration['images']} {on}. It holds for images like those of the dataset."
    )


_SPATIAL = (
    "After an image's feature come the tokens of its spatial map, row by row, as `cafe extract "
    "--spatial` stores them."
)
_SCORES = (
    "`scores` judge each class alone, by the sigmoid that the encoder was trained with: they need "
    "not sum to 1, and where all are low the image may show none of the classes. They are not "
    "calibrated."
)


def _limits(about: Mapping[str, Any]) -> str:
    return (
        f"It knows these {len(about['class_names'])} classes only, and gives one of them for any "
        "image; leave improbable answers open. Its accuracy is that on the test images of "
        f"{about['dataset']}: other cameras, places and times are other data. It inherits what the "
        "encoder has learnt from its own training images, biases included, and their licences."
    )


def _details(about: Mapping[str, Any]) -> str:
    encoder = about["encoder"]
    rows = {
        "encoder": f"{encoder['model']}, {encoder['pretrained']}",
        "precision of the features": about["cache_key"].get("precision", "unknown"),
        "its weights, SHA-256": encoder.get("weights_sha256") or "unknown (imported features)",
        "hyper-parameters": _hyper_parameters(about["params"]),
        "made": about.get("created", ""),
        "command": f"`{about['command']}`" if about.get("command") else "",
        "versions": ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items()),
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items() if value)


def _hyper_parameters(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in params.items() if k != "method") or "none"
