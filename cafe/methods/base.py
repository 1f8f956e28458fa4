"""The contract of all methods: fit on a training set, give a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from inspect import signature
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from cafe.devices import ProductPrecision, resolve_precision
from cafe.engine import Recipe, Run, Trained, train
from cafe.errors import InputError
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.head import Head

Need = Literal["", "text tower", "meta file", "spatial features", "pre-projection features", "pool"]
"""What a method needs beside image and text features."""

Protocol = Literal["none", "few-shot", "full", "cv"]
"""How hyper-parameters are chosen: not at all, on min(K, 4) validation images per class, on the
whole validation split, or by cross-validation inside the K training shots."""


@dataclass(frozen=True)
class Validation:
    """What a method may look at to choose its hyper-parameters.

    Attributes
    ----------
    protocol : {"none", "few-shot", "full", "cv"}
        The name of the protocol.
    features : Features or None
        Held-out images for "few-shot" and "full"; None for "none" and "cv".

    Raises
    ------
    InputError
        If the protocol needs images and there are none.
    """

    protocol: Protocol = "none"
    features: Features | None = None

    def __post_init__(self) -> None:
        if self.protocol in ("few-shot", "full") and self.features is None:
            raise InputError(
                f"validation protocol '{self.protocol}' has no images to choose by; pass them as "
                "features, or take protocol 'cv'."
            )


NO_VALIDATION = Validation()


class Job(NamedTuple):
    """One fit; see `Method.fit` for what each part is."""

    train: TrainingSet
    validation: Validation = NO_VALIDATION
    seed: int = 0


RECIPE_SETTINGS = tuple(part.name for part in fields(Recipe))
"""Parts of the recipe of a method that trains, which may be set one by one."""


@dataclass(frozen=True)
class Context:
    """Where and how a method computes; the same for every fit of a study.

    Attributes
    ----------
    device : torch.device
        Where training and prediction run.
    precision : {"auto", "fp32", "bf16"}
        Precision of the engine's matrix products; master weights are float32 always.
    memory_budget : int or None
        Bytes that the engine may use for runs side by side; None takes half of what is free.
    tell : callable or None
        Called with the run-epochs that are done and those there are, while something is trained.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: ProductPrecision = "auto"
    memory_budget: int | None = None
    tell: Callable[[int, int], None] | None = None

    @property
    def products(self) -> Literal["fp32", "bf16"]:
        """The precision of the engine's matrix products, once it is known."""
        return resolve_precision(self.precision, self.device)

    def train(self, runs: Sequence[Run], sets: Sequence[TrainingSet]) -> list[Trained]:
        """Train runs side by side; see `cafe.engine.train`."""
        return train(
            runs,
            sets,
            device=self.device,
            precision=self.precision,
            memory_budget=self.memory_budget,
            progress=self.tell,
        )


def training_params(trained: Trained) -> dict[str, Any]:
    """How the engine trained a run, as parts of a head's params: recipe, seed and precision."""
    run = trained.run
    return {**asdict(run.recipe), "seed": run.seed, "precision": trained.precision}


class Method(ABC):
    """A way to turn labelled features into a head.

    A subclass implements `fit`, or, where many fits train side by side, `fit_many` (and gets `fit`
    from `BatchedMethod`). Its settings are the keyword arguments of its constructor. All else that
    the rest of cafe asks about a method is an attribute of the class.

    Attributes
    ----------
    name : str
        As on the command line, and in the row of `cafe.methods.catalog`.
    summary : str
        What it is, in one line.
    source : str
        Paper, with its year.
    head : type of Head
        What a fit gives.
    needs : str
        What it needs beside a cache's image and text features; "" for nothing.
    works_without_text : bool
        Whether it is fitted on images alone where a cache has no text of the classes, although it
        reads the text of others.
    no_new_classes : str
        Why a head cannot take classes that it was not fitted on, as a clause; "" where it can,
        by putting the text of other classes in the place of its field `weights`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    head: ClassVar[type[Head]]
    needs: ClassVar[Need] = ""
    works_without_text: ClassVar[bool] = False
    no_new_classes: ClassVar[str] = (
        "its head is made of the shots of each class, and a new class has none"
    )

    def __init__(self, context: Context | None = None) -> None:
        self.context = context or Context()

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Every hyper-parameter that it takes, those of a recipe one by one."""
        own = tuple(name for name in signature(cls).parameters if name != "context")
        return (*own, *RECIPE_SETTINGS) if "recipe" in own else own

    @classmethod
    def reads_text(cls, _settings: Mapping[str, Any]) -> bool:
        """Whether a fit with these hyper-parameters looks at the classes' text."""
        return True

    @classmethod
    def needs_text(cls, settings: Mapping[str, Any]) -> bool:
        """Whether such a fit cannot do without."""
        return cls.reads_text(settings) and not cls.works_without_text

    @classmethod
    def make_head(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Head:
        """A head of these tensors and params, which a fit or a file gave."""
        kind: Any = cls.head
        head: Head = kind(**tensors, params=params, method=cls.name)
        return head

    @abstractmethod
    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Fit one head.

        Parameters
        ----------
        train : TrainingSet
            Labelled features and the classes' text, on the context's device.
        validation : Validation
            What may be looked at to choose hyper-parameters.
        seed : int
            Seed of initial weights and of batch order.

        Returns
        -------
        Head
            The fitted head.
        """

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job; methods that train do it side by side."""
        return [self.fit(train, validation=val, seed=seed) for train, val, seed in jobs]


class BatchedMethod(Method):
    """A method whose fits train side by side: it implements `fit_many` and gets `fit` for free."""

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Fit one head; see `Method.fit`."""
        return self.fit_many([Job(train, validation, seed)])[0]

    @abstractmethod
    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job, all side by side."""
