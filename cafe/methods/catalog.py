"""The list of methods: the name of each and where its class is; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from cafe.errors import CafeError, UnknownNameError

if TYPE_CHECKING:
    from cafe.methods.base import Context, Method

CATALOG: dict[str, str] = {
    "zero-shot": "cafe.methods.zero_shot:ZeroShot",
    "nearest-class": "cafe.methods.nearest_class:NearestClass",
    "clip-adapter": "cafe.methods.clip_adapter.method:ClipAdapter",
    "clip-adapter-text": "cafe.methods.clip_adapter.method:ClipAdapterText",
    "clip-adapter-both": "cafe.methods.clip_adapter.method:ClipAdapterBoth",
    "knn": "cafe.methods.knn:Knn",
    "linear-probe": "cafe.methods.linear_probe:LinearProbe",
    "tip-adapter": "cafe.methods.tip_adapter.tip_adapter:TipAdapter",
    "tip-adapter-f": "cafe.methods.tip_adapter.tip_adapter_f:TipAdapterF",
    "vt-clip": "cafe.methods.vt_clip:VtClip",
    "gda": "cafe.methods.gda:Gda",
    "cross-modal": "cafe.methods.cross_modal:CrossModalLinear",
    "taskres": "cafe.methods.taskres:TaskRes",
    "clap": "cafe.methods.clap:Clap",
    "rla": "cafe.methods.rla:Rla",
    "prolip": "cafe.methods.prolip:ProLip",
    "lp++": "cafe.methods.lp_plus_plus:LpPlusPlus",
    "proker": "cafe.methods.proker:Proker",
    "coop": "cafe.methods.prompt_learning.coop:Coop",
    "cpl": "cafe.methods.prompt_learning.cpl:Cpl",
    "lda": "cafe.methods.lda:Lda",
    "lda-prior": "cafe.methods.lda_prior:LdaPrior",
    "map-probe": "cafe.methods.map_probe:MapProbe",
    "sgva": "cafe.methods.sgva.sgva:Sgva",
    "meta-adapter": "cafe.methods.meta_adapter.meta_adapter:MetaAdapter",
    "auto": "cafe.methods.auto:Auto",
    "lda-prior-pooled": "cafe.methods.transductive.lda_prior_pooled:LdaPriorPooled",
    "transclip": "cafe.methods.transductive.transclip:TransClip",
    "stata": "cafe.methods.transductive.stata:StatA",
    "zlap": "cafe.methods.transductive.zlap:Zlap",
}
"""Name of each method -> module and class. A row is all that a new method needs beside its file."""

# Another package brings methods of its own by entry points, which look like the rows above.
for _point in entry_points(group="cafe.methods"):
    CATALOG.setdefault(_point.name, _point.value)

BASELINES = ("zero-shot", "nearest-class")
"""Methods that stand beside every result."""


def find_method(name: str) -> type[Method]:
    """The class of a method, imported now.

    Raises
    ------
    UnknownNameError
        If there is none of that name; the nearest are suggested.
    CafeError
        If its class cannot be imported.
    """
    if name not in CATALOG:
        raise UnknownNameError("method", name, CATALOG, "'cafe methods' lists them.")
    try:
        kind: type[Method] = pkgutil.resolve_name(CATALOG[name])
    except (ImportError, AttributeError) as error:
        raise CafeError(
            f"method '{name}' cannot be loaded from '{CATALOG[name]}' ({error}); mend or uninstall "
            "the package that brings it."
        ) from error
    return kind


def methods_that_need(need: str) -> list[str]:
    """Names of the methods with this `Method.needs`; of "" those that any cache has all for."""
    return [name for name in CATALOG if find_method(name).needs == need]


def make_method(name: str, context: Context, settings: Mapping[str, Any]) -> Method:
    """Build a method.

    Parameters
    ----------
    name : str
        A name of the catalog.
    context : Context
        Where it computes.
    settings : mapping
        Hyper-parameters for all methods of a study; each takes those that it knows. A
        `SelfTraining` under "self_train" is for the methods that it names, "prompts_weighting" for
        those that take class weights.
    """
    from cafe.methods.base import RECIPE_SETTINGS
    from cafe.methods.prompt_weighting import PromptsWeighted, is_weighted
    from cafe.methods.self_training import SETTING, SelfTrained

    kind: Any = find_method(name)
    known = {key: value for key, value in settings.items() if key in kind.settings()}
    recipe = {key: known.pop(key) for key in RECIPE_SETTINGS if key in known}
    method: Any = kind(context=context, **known)
    if recipe:  # the rest of the recipe stays the method's own
        known["recipe"] = dataclasses.replace(method.recipe, **recipe)
        method = kind(context=context, **known)
    training = settings.get(SETTING)
    made: Method = PromptsWeighted(method) if is_weighted(kind, settings) else method
    return SelfTrained(made, training) if training and name in training.methods else made
