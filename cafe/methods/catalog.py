"""The list of methods: name, one line, source, and where the class is; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cafe.errors import UnknownNameError

if TYPE_CHECKING:
    from cafe.methods.base import Context, Method


class Entry(NamedTuple):
    """One method.

    Attributes
    ----------
    name : str
        As on the command line.
    summary : str
        One line.
    source : str
        Paper.
    module, attribute : str
        Where the class is.
    settings : tuple of str
        Keyword arguments that its constructor takes beside `context`.
    needs : str
        What it needs beside a cache's image and text features: "text tower", "meta file" or
        "spatial features"; "" for nothing.
    """

    name: str
    summary: str
    source: str
    module: str
    attribute: str
    settings: tuple[str, ...] = ()
    needs: str = ""


CATALOG: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "zero-shot",
            "the classes' text features as classifier; no training image",
            "Radford et al. 2021, arXiv 2103.00020",
            "cafe.methods.zero_shot",
            "ZeroShot",
        ),
        Entry(
            "nearest-class",
            "cosine to the mean of each class's training features, by faiss",
            "Mensink et al. 2013, IEEE TPAMI 35(11)",
            "cafe.methods.nearest_class",
            "NearestClass",
        ),
        Entry(
            "clip-adapter",
            "residual bottleneck adapter on the image features",
            "Gao et al. 2021, arXiv 2110.04544",
            "cafe.methods.clip_adapter.method",
            "ClipAdapter",
            (
                "ratio",
                "ratios",
                "bottleneck",
                "recipe",
                "final_relu",
                "normalize_input",
                "counterfactual",
            ),
        ),
        Entry(
            "clip-adapter-text",
            "residual bottleneck adapter on the class weights",
            "Gao et al. 2021, arXiv 2110.04544",
            "cafe.methods.clip_adapter.method",
            "ClipAdapterText",
            ("ratio", "ratios", "bottleneck", "recipe", "final_relu", "normalize_input"),
        ),
        Entry(
            "clip-adapter-both",
            "adapters on image features and class weights, each with its ratio",
            "Gao et al. 2021, arXiv 2110.04544",
            "cafe.methods.clip_adapter.method",
            "ClipAdapterBoth",
            (
                "ratio",
                "text_ratio",
                "ratios",
                "bottleneck",
                "recipe",
                "final_relu",
                "normalize_input",
            ),
        ),
        Entry(
            "knn",
            "votes of the nearest training features, by faiss",
            "Wu et al. 2018, arXiv 1805.01978",
            "cafe.methods.knn",
            "Knn",
            ("k", "temperature", "counts"),
        ),
        Entry(
            "linear-probe",
            "logistic regression, or a cosine probe started from the class texts",
            "Radford et al. 2021, arXiv 2103.00020; start: arXiv 2312.12730",
            "cafe.methods.linear_probe.linear_probe",
            "LinearProbe",
            ("start", "c", "cs", "recipe"),
        ),
        Entry(
            "tip-adapter",
            "zero-shot plus a key-value cache of the training features",
            "Zhang et al. 2022, arXiv 2111.03930",
            "cafe.methods.tip_adapter.tip_adapter",
            "TipAdapter",
            ("alpha", "beta", "grid"),
        ),
        Entry(
            "tip-adapter-f",
            "tip-adapter with trained keys",
            "Zhang et al. 2022, arXiv 2111.03930",
            "cafe.methods.tip_adapter.tip_adapter_f",
            "TipAdapterF",
            ("alpha", "beta", "grid", "recipe"),
        ),
        Entry(
            "vt-clip",
            "class texts that look at the image's spatial map (cafe extract --spatial)",
            "Qiu et al. 2021, arXiv 2112.02399",
            "cafe.methods.vt_clip",
            "VtClip",
            ("gate", "gates", "bottleneck", "recipe"),
            needs="spatial features",
        ),
        Entry(
            "gda",
            "zero-shot plus Gaussian discriminant analysis in closed form",
            "Wang et al. 2024, arXiv 2402.04087",
            "cafe.methods.gda",
            "Gda",
            ("alpha", "alphas"),
        ),
        Entry(
            "cross-modal",
            "linear probe from the class texts, with every prompt as a training sample",
            "Lin et al. 2023, arXiv 2301.06267",
            "cafe.methods.cross_modal",
            "CrossModalLinear",
            ("rates", "decays", "recipe"),
        ),
        Entry(
            "taskres",
            "a trained residual on the class weights",
            "Yu et al. 2023, arXiv 2211.10277",
            "cafe.methods.taskres",
            "TaskRes",
            ("alpha", "alphas", "recipe"),
        ),
        Entry(
            "clap",
            "cosine probe held near the class texts, class by class",
            "Silva-Rodriguez et al. 2024, arXiv 2312.12730",
            "cafe.methods.clap",
            "Clap",
            ("strength", "recipe"),
        ),
        Entry(
            "coop",
            "learned words around the class names",
            "Zhou et al. 2022, arXiv 2109.01134",
            "cafe.methods.prompt_learning.coop",
            "Coop",
            ("prompt", "class_specific", "recipe", "tower"),
            needs="text tower",
        ),
        Entry(
            "cpl",
            "coop that also tells images from counterfactuals of their most confusable class",
            "He et al. 2022, arXiv 2210.10362",
            "cafe.methods.prompt_learning.cpl",
            "Cpl",
            ("prompt", "contrast", "mask", "class_specific", "recipe", "tower"),
            needs="text tower",
        ),
        Entry(
            "lda-prior",
            "zero-shot plus a Gaussian classifier whose class means start from the text",
            "cafe 2026, docs/research/auto.md; after GDA, arXiv 2402.04087",
            "cafe.methods.lda_prior",
            "LdaPrior",
            ("kappa", "beta", "kappas", "betas"),
        ),
        Entry(
            "map-probe",
            "a linear probe on whitened features, held near zero-shot by a penalty",
            "cafe 2026, docs/research/auto.md",
            "cafe.methods.map_probe",
            "MapProbe",
            ("penalty", "penalties"),
        ),
        Entry(
            "sgva",
            "an adapter trained on image prototypes and guided by the text; both in the score",
            "Peng et al. 2022, arXiv 2211.16191",
            "cafe.methods.sgva.sgva",
            "Sgva",
            ("alpha", "alphas", "mix", "temperature", "words", "bottleneck", "recipe"),
        ),
        Entry(
            "meta-adapter",
            "class texts refined by their shots through attention that was trained once, elsewhere",
            "Song et al. 2023, arXiv 2311.03774",
            "cafe.methods.meta_adapter.meta_adapter",
            "MetaAdapter",
            ("meta",),
            needs="meta file",
        ),
        Entry(
            "auto",
            "cafe's own mix: adapters of several ratios and lda-prior, weighted by held-out shots",
            "cafe 2026, docs/research/auto.md",
            "cafe.methods.auto",
            "Auto",
            ("bottleneck", "recipe"),
        ),
    )
}

RECIPE_SETTINGS = ("lr", "weight_decay", "epochs", "batch_size", "views")
"""Parts of the recipe of a method that trains, which may be set one by one."""

ANYWHERE = tuple(name for name, entry in CATALOG.items() if not entry.needs)
"""Methods that any cache has all for."""

BASELINES = ("zero-shot", "nearest-class")
"""Methods that stand beside every result."""


def find_method(name: str) -> Entry:
    """The entry of a method.

    Raises
    ------
    UnknownNameError
        If there is none of that name; the nearest are suggested.
    """
    if name not in CATALOG:
        raise UnknownNameError("method", name, CATALOG, "'cafe methods' lists them.")
    return CATALOG[name]


def make_method(name: str, context: Context, settings: Mapping[str, Any]) -> Method:
    """Build a method.

    Parameters
    ----------
    name : str
        A name of the catalog.
    context : Context
        Where it computes.
    settings : mapping
        Hyper-parameters for all methods of a study; each takes those that it knows.
    """
    entry = find_method(name)
    kind = method_class(name)
    known = {key: value for key, value in settings.items() if key in entry.settings}
    method = kind(context=context, **known)
    recipe = {key: settings[key] for key in RECIPE_SETTINGS if key in settings}
    if recipe and "recipe" in entry.settings:  # the rest of the recipe stays the method's own
        known["recipe"] = dataclasses.replace(method.recipe, **recipe)
        method = kind(context=context, **known)
    made: Method = method
    return made


def method_class(name: str) -> Any:
    """The class of a method, imported now."""
    entry = find_method(name)
    return getattr(importlib.import_module(entry.module), entry.attribute)


def known_settings(name: str) -> tuple[str, ...]:
    """Every hyper-parameter that a method takes, those of its recipe one by one."""
    settings = find_method(name).settings
    return (*settings, *RECIPE_SETTINGS) if "recipe" in settings else settings
