"""The model card of an exported head: what it is, how good, on what, and how to load it.

The text is in `model_card.md.j2`; its header is metadata that the Hugging Face Hub reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cafe.datasets.text_files import distinct_names
from cafe.errors import visible
from cafe.results.saved_head import SavedHead, output_names


def write_card(
    saved: SavedHead,
    *,
    file: str,
    format: str,  # noqa: A002  the word of the command line
    checked: str,
    width: int,
    preprocess: Mapping[str, Any] | None = None,
) -> str:
    """The card of a head as Markdown.

    Parameters
    ----------
    saved : SavedHead
    file : str
        Name of the exported file.
    format : {"safetensors", "onnx", "torch"}
        Its format, on which the code that loads it depends.
    checked : str
        In words: how the file was compared with the original.
    width : int
        D.
    preprocess : mapping, optional
        The encoder's, where the encoder is in the file; None for a head alone.
    """
    size = preprocess["size"] if preprocess else None  # pixels
    image_height, image_width = (size, size) if isinstance(size, int) else size or (None, None)
    own = ", ".join(map(str, saved.input_shape if saved.width else (width,)))
    shape = f"3, {image_height}, {image_width}" if size else own
    rows = f"{'uint8' if size else 'float32'} (N, {shape})"
    return _render(
        saved,
        from_pixels=preprocess is not None,
        preprocess=preprocess,
        height=image_height,
        width=image_width,
        format=format,
        file=file,
        input="pixels" if preprocess else "features",
        shapes=f"{rows} -> (N, {len(saved.class_names)})",
        checked=checked,
    )


def write_model_card(saved: SavedHead, folder: str) -> str:
    """The card of a model, which `cafe.train` wrote to a folder of that name, as Markdown."""
    return _render(saved, from_pixels=True, format="model", file=folder)


def _render(saved: SavedHead, *, from_pixels: bool, **values: Any) -> str:
    about: dict[str, Any] = _as_text(saved.about)
    accuracies = {}
    if "accuracy" in about:  # else a head that an older cafe saved, or a model
        accuracies = {
            f"this head, {about['method']}": about["accuracy"],
            **about.get("baselines", {}),
        }
    names = distinct_names(about["class_names"])
    estimate, boxes = about.get("estimate"), about["cache_key"].get("boxes", {})
    card = ModelCard.from_template(
        _metadata(about, from_pixels=from_pixels),
        template_path=str(Path(__file__).with_suffix(".md.j2")),
        about=about,
        encoder=about["encoder"],
        class_names=names,
        spatial=saved.head.spatial,
        pre_projection=saved.head.pre_projection,
        outputs=output_names(saved),
        own_scores=saved.head.own_scores,
        items="boxes" if boxes else "images",
        context=boxes.get("context", ()),
        accuracies=accuracies,
        estimate=estimate,
        per_class=list(zip(names, estimate["per_class"], strict=True)) if estimate else [],
        calibration=about.get("calibration", {}),
        details=_details({**about, "command": saved.about.get("command", "")}),
        **values,
    )
    return f"{card}\n"


def _as_text(value: Any) -> Any:
    """The texts in JSON values as Markdown that shows them: no HTML, link, picture or control."""
    if isinstance(value, str):
        return re.sub(r"([\\`*\[<|])", r"\\\1", visible(value))
    if isinstance(value, Mapping):
        return {_as_text(name): _as_text(part) for name, part in value.items()}
    return [_as_text(part) for part in value] if isinstance(value, list | tuple) else value


def _metadata(about: Mapping[str, Any], *, from_pixels: bool) -> ModelCardData:
    """What the Hub shows of a model and finds it by."""
    dataset, estimate = about["dataset"], about.get("estimate")
    measured = about.get("accuracy", estimate and estimate["accuracy"])
    accuracy = EvalResult(
        task_type="image-classification",
        dataset_type=dataset,
        dataset_name=dataset,
        metric_type="accuracy",
        metric_value=round(measured or 0.0, 2),
        metric_name="top-1 % by cross-validation"
        if estimate and estimate["source"] == "cross-validation"
        else "top-1 % on the test images",
    )
    return ModelCardData(
        model_name=f"{about['method']} on {dataset}",
        eval_results=None if measured is None else [accuracy],
        library_name="cafe",
        pipeline_tag="image-classification" if from_pixels else None,
        tags=["cafe", "clip", "few-shot", about["method"]],
    )


def _details(about: Mapping[str, Any]) -> dict[str, str]:
    encoder, params = about["encoder"], about["params"]
    return {
        "encoder": f"{encoder['model']}, {encoder['pretrained']}",
        "precision of the features": about["cache_key"].get("precision", "unknown"),
        "its weights, SHA-256": encoder.get("weights_sha256") or "unknown (imported features)",
        "hyper-parameters": ", ".join(f"{k} {v}" for k, v in params.items() if k != "method")
        or "none",
        "made": about.get("created", ""),
        "command": f"`{visible(about['command']).replace('`', '')}`" if about["command"] else "",
        "versions": ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items()),
    }
