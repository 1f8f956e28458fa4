"""What is said of a model: how it was trained and judged."""

from __future__ import annotations

from cafe.errors import counted
from cafe.store import FeatureCache
from cafe.store.key import say_items
from cafe.study.fit_on_all import Fitted


def unreadable(cache: FeatureCache) -> str:
    """How many images of a cache's dataset were skipped."""
    return f"{counted(len(cache.header.skipped), cache.noun)} could not be read"


def words_of(fitted: Fitted, cache: FeatureCache, learning: str) -> str:
    """How a model was trained and judged, in sentences; `learning` as of `cafe.features.pool`."""
    estimate, images, source = fitted.estimate, sum(fitted.images), cache.header.source
    words = [f"Data: {source}."] if source else []
    words += [f"{fitted.head.method} was fitted on all {images:,} labelled images, {learning}."]
    words += [f"{unreadable(cache)}."] if cache.header.skipped else []
    if estimate is None:
        words.append("Its accuracy is not known: no class has two images, one of them to hold out.")
    elif estimate.source == "test split":
        words.append(
            f"Its accuracy is estimated on the dataset's own test split of {estimate.images:,} "
            "images, by a head that was fitted on all others."
        )
    else:
        words.append(
            f"Its accuracy is estimated by {estimate.folds}-fold cross-validation: each image is "
            "judged once, by a head that was fitted without it."
        )
        if alone := images - estimate.images:
            words.append(f"The only image of a class is not judged; there are {alone} of these.")
    if estimate is not None:
        words.append("The interval is 95 % (Wilson), for so many images.")
    if fitted.rivals:
        others = ", ".join(f"{name} {value:.1f} %" for name, value in fitted.rivals.items())
        words.append(
            f"It is the best of {1 + len(fitted.rivals)} methods on these images ({others}). "
            "Of the best such a number is too high; so in the estimate each tenth of the images "
            "is judged by the method that the other nine choose."
        )
    return say_items(" ".join(words), cache.noun)
