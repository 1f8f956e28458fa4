"""What the methods that are nothing without a pool of unlabelled images share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from numpy.typing import ArrayLike

from cafe.errors import InputError
from cafe.features.pool import Pool
from cafe.features.tensors import TrainingSet
from cafe.methods.base import NO_VALIDATION, Context, Method, Validation
from cafe.methods.head import Head
from cafe.methods.transductive.class_balance import ClassBalance


class PoolMethod(Method):
    """A method that begins with the answers of a head on a pool, and learns from these."""

    needs: ClassVar[Literal["pool"]] = "pool"

    def __init__(
        self,
        pool: Pool | ArrayLike | None,
        class_balance: ClassBalance | None,
        context: Context | None,
    ) -> None:
        super().__init__(context)
        if pool is None:
            raise InputError(
                f"{self.name} learns from images without labels and has none; give pool=test "
                "or pool=CACHE."
            )
        self.pool = Pool.of(pool).to(self.context.device)
        self.class_balance = class_balance

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Fit the head to begin with, and then on the pool; validation plays no part."""
        return self.fit_beside(self.begin(train, seed), train)

    @abstractmethod
    def begin(self, train: TrainingSet, seed: int) -> Head:
        """Fit the head whose answers it begins with."""

    @abstractmethod
    def fit_beside(self, start: Head, train: TrainingSet) -> Head:
        """Fit on the pool, beginning with the answers of a head that is fitted already."""
