"""Class names that are numbers are in the order of the numbers, all others in that of the text."""

import doctest

import pytest

from cafe.datasets import class_order as module
from cafe.datasets.class_order import first_pairs, has_two_orders, in_class_order

ORDERS = [
    ["0", "1", "2", "9", "10", "11", "100"],
    ["000", "001", "002", "010", "100"],
    ["01", "1", "2", "10"],
    ["-10", "-9", "-1", "0", "+2", "10"],
    ["0.5", "1", "1.25", "1.5", "10.0"],
    ["0,5", "1,25", "1,5", "10"],
    ["0-9", "10-19", "20-29", "100-109"],
    ["1 star", "2 stars", "10 stars"],
    ["1. Acura", "2. BMW", "10. Kia"],
    ["001.Albatross", "002.Laysan", "200.Yellowthroat"],
    ["1", "9" * 5000, "9" * 5001],
    ["10", "9", "none"],
    ["Zebra", "apple", "class 10", "class 2", "é"],
    ["1_000", "2", "x"],
    [],
]


@pytest.mark.parametrize("names", ORDERS, ids=lambda names: "|".join(names)[:30])
def test_the_order_does_not_depend_on_how_names_come(names: list[str]) -> None:
    assert in_class_order(names[::-1] + names) == names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["class 1", "class 10", "class 2"], True),
        (["class 01", "class 02", "class 10"], False),
        (["1", "2", "10"], False),
        (["0-9", "10-19"], False),
        (["a", "b"], False),
        (["a9" * 3000, "a10"], True),
        (["n01440764", "n01443537"], False),
    ],
)
def test_names_that_can_be_ordered_in_two_ways(names: list[str], expected: bool) -> None:
    assert has_two_orders(names) is expected


def test_all_of_few_pairs_are_shown() -> None:
    assert first_pairs(["0", "1"], ["cat", "dog"]) == "0 -> cat, 1 -> dog"


def test_the_examples() -> None:
    assert doctest.testmod(module).failed == 0
