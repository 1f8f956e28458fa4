"""Suggestions survive their file, whatever the names are; a bad row is refused with its line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cafe.curation.suggestions import (
    Suggestion,
    read_suggestions,
    write_suggestions,
)
from cafe.errors import InputError

HEADER = "id,problem,current,proposed,confidence\n"

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
words = names.filter(str.strip)
hostile = st.sampled_from(
    ["=1+1", "'=1", "''@x", "-a", "\tb", "\rc", "a,b", 'q"q', "l\r\nm", "ż;\n"]
)
file_names = (
    st.binary(min_size=1, max_size=8)
    .filter(lambda raw: b"\0" not in raw)
    .map(lambda raw: raw.decode("utf-8", "surrogateescape"))
    .filter(str.strip)
)
suggestions = st.builds(
    Suggestion,
    words | hostile | file_names,
    words | hostile,
    names | hostile,
    names | hostile,
    st.integers(0, 10_000).map(lambda n: n / 10_000),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(suggestions, max_size=4))
def test_what_is_written_is_read(tmp_path: Path, rows: list[Suggestion]) -> None:
    path = tmp_path / "suggestions.csv"
    write_suggestions(path, rows)
    assert read_suggestions(path) == rows
    with path.open(newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell]


def test_the_form_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_suggestions(path, [Suggestion("a/1.jpg", "label", "cat", "dog", 0.98765)])
    assert (
        path.read_bytes()
        == (HEADER + "a/1.jpg,label,cat,dog,0.9877\n").replace("\n", "\r\n").encode()
    )
    (row,) = read_suggestions(path)
    assert (row.kind, row.is_change) == ("label", True)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffid;problem;current;proposed;confidence\r\na,1;label;cat;dog;0,5\r\n;;;;\r\n",
        "confidence\tproposed\tid\tmine\tcurrent\tproblem\n0.5\tdog\ta,1\tx\tcat\tlabel\n\n",
        'ID , Problem,current,Proposed,confidence\n"a,1",label,cat,dog,0.5',
    ],
)
def test_what_spreadsheets_make_of_it(tmp_path: Path, content: str) -> None:
    for encoding in ("utf-8", "utf-16"):
        path = tmp_path / "s.csv"
        path.write_bytes(content.lstrip("\ufeff" if encoding == "utf-16" else "").encode(encoding))
        assert read_suggestions(path) == [Suggestion("a,1", "label", "cat", "dog", 0.5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("id,problem\na,label\n", "no column 'proposed'"),
        ("id,id,proposed\n", "two columns 'id'"),
        (HEADER + "a,label,cat\n", "line 2: 3 fields where the header has 5"),
        (
            HEADER + "a,label,cat,dog,0.5\n ,label,cat,dog,0.5\n",
            "line 3: a suggestion needs the id",
        ),
        (HEADER + "a,label,cat,dog,2\n", "line 2: confidence 2.0 is not"),
        (HEADER + "a,label,cat,dog,nan\n", "line 2: confidence nan is not"),
        (HEADER + "a,label,cat,dog,high\n", "line 2: confidence 'high' is no number"),
        (HEADER + 'a,"label,cat,dog,0.5\n', "not CSV"),
        (HEADER + "a,label,cat,d\0og,0.5\n", "NUL"),
    ],
)
def test_a_bad_row_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_suggestions(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(b"\xff\x00\xff")
    with pytest.raises(InputError, match="UTF-8"):
        read_suggestions(tmp_path / "s.csv")
    with pytest.raises(InputError, match="cannot read"):
        read_suggestions(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="cannot write"):
        write_suggestions(tmp_path / "absent" / "s.csv", [])
