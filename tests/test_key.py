"""Keys: one text for one content, and every difference named."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cafe.store.key import canonical, differences, digest, digest_of_array, digest_of_names

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
KEYS = st.dictionaries(st.text(max_size=5), VALUES, max_size=5)


@given(KEYS)
def test_order_does_not_count(key: dict[str, object]) -> None:
    assert canonical(key) == canonical(dict(reversed(key.items())))
    assert digest(key) == digest(dict(reversed(key.items())))
    assert canonical(key).isascii()


@given(KEYS, KEYS)
def test_keys_differ_just_where_something_differs(
    one: dict[str, object], two: dict[str, object]
) -> None:
    parts = [
        {name: value for name, value in key.items() if value is not None} for key in (one, two)
    ]
    assert bool(differences(one, two)) == (canonical(parts[0]) != canonical(parts[1]))


def test_every_part_is_named() -> None:
    found = {"precision": "bf16", "weights": "a" * 64, "templates": ["x"], "old": None, "same": 1}
    asked = {"precision": "fp32", "weights": "b" * 64, "templates": ["y"], "new": 3, "same": 1}
    assert differences(found, asked) == [
        "new is null, asked for 3",
        "precision is bf16, asked for fp32",
        'templates is ["x"], asked for ["y"]',
        "weights is aaaaaaaaaaaa…, asked for bbbbbbbbbbbb…",
    ]


def test_a_part_that_is_there_with_nothing_in_it_is_named() -> None:
    assert differences({}, {"augmentation": None}) == []
    assert differences({}, {"bias": 0}) == ["bias is null, asked for 0"]


def test_long_values_are_cut() -> None:
    (clause,) = differences({"x": "a" * 500}, {"x": "b"})
    assert len(clause) < 120


def test_not_a_number_is_no_part_of_a_key() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"x": float("nan")})


def test_names_are_told_apart_by_their_bounds() -> None:
    assert digest_of_names(["a", "b"]) != digest_of_names(["ab"])
    assert digest_of_names(["a", "b"]) != digest_of_names(["b", "a"])


def test_arrays_are_told_apart_by_their_form() -> None:
    zeros = np.zeros(4, np.int32)
    forms: list[NDArray[Any]] = [
        zeros,
        zeros.reshape(2, 2),
        zeros.astype(np.int64),
        zeros[:2].astype(np.int64),
    ]
    assert len({digest_of_array(form) for form in forms}) == 4
