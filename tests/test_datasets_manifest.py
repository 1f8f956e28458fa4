"""Manifests: whatever is in the file, a dataset or one line that says what to do."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe.datasets import Dataset, load_dataset
from cafe.datasets.manifest import read_manifest
from cafe.errors import CafeError, DatasetError, InputError


def plant(root: Path, text: str, *paths: str, name: str = "m.csv") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"image")
    root.mkdir(exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def test_csv_with_splits(tmp_path: Path) -> None:
    text = "\ufeffpath,label,split\na/1.png,red_fox,Train\nb 2.png,犬,training\n3.png,犬,TEST\n"
    dataset = load_dataset(plant(tmp_path, text, "a/1.png", "b 2.png", "3.png"))
    assert dataset.name == "m"
    assert dataset.class_names == ("red fox", "犬")
    assert [item.id for item in dataset.splits["train"]] == ["a/1.png", "b 2.png"]
    assert dataset.source == "manifest m.csv"


def test_jsonl_with_numbers_and_names(tmp_path: Path) -> None:
    lines = [
        {"path": "1.png", "label": 1, "class_name": "dog"},
        {"path": "0.png", "label": 0, "class_name": "cat"},
    ]
    text = "\n\n".join(map(json.dumps, lines))
    dataset = load_dataset(plant(tmp_path, text, "0.png", "1.png", name="m.jsonl"))
    assert dataset.class_names == ("cat", "dog")
    assert "which has no splits; cafe's split" in dataset.source


def test_numbers_without_names(tmp_path: Path) -> None:
    path = plant(tmp_path, "path,label\n0.png,0\n1.png,1\n", "0.png", "1.png")
    with pytest.raises(DatasetError, match="2 labels have no class name"):
        load_dataset(path)
    assert load_dataset(path, class_names=["cat", "dog"]).class_names == ("cat", "dog")
    with pytest.raises(InputError, match="3 class names are given"):
        load_dataset(path, class_names=["a", "b", "c"])


def test_numbers_among_names_are_names(tmp_path: Path) -> None:
    path = plant(tmp_path, "path,label\n0.png,007\n1.png,bond\n", "0.png", "1.png")
    assert load_dataset(path).class_names == ("007", "bond")


def test_paths_are_relative_to_a_root(tmp_path: Path) -> None:
    path = plant(tmp_path / "lists", "path,label\n0.png,a\nx\\1.png,b\n")
    plant(tmp_path / "images", "", "0.png", "x/1.png", name="unused.txt")
    assert load_dataset(path, data_root=tmp_path / "images").root == tmp_path / "images"


def test_absolute_path_below_the_root(tmp_path: Path) -> None:
    path = plant(tmp_path, f"path,label\n{tmp_path}/0.png,a\n1.png,b\n", "0.png", "1.png")
    assert {i.id for s in load_dataset(path).splits.values() for i in s} == {"0.png", "1.png"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no images"),
        ("path,label\n", "names no images"),
        ("file,class\n0.png,a\n", "line 2: no 'path' and no 'label', only 'file', 'class'"),
        ("path,label\n0.png\n", "line 2: as many fields as the header"),
        ("path,label\n0.png,a,b\n", "line 2: as many fields as the header"),
        ("path,label\n0.png,\n", "line 2: the label is empty"),
        ("path,label\n,a\n", "line 2: '' is not the path"),
        ("path,label\n/etc/passwd,a\n", "'/etc/passwd' is absolute"),
        ("path,label\nC:\\x.png,a\n", "is absolute"),
        ("path,label\n../0.png,a\n", "leads out of its root"),
        ("path,label\na\\..\\..\\0.png,a\n", "leads out of its root"),
        ("path,label,split\n0.png,a,holdout\n", "split 'holdout' is none of"),
        ("path,label,split\n0.png,a,train\n1.png,b,\n", "1 of 2 lines has no split"),
        ("path,label\n0.png,a\n./0.png,b\n", "1 image is named twice"),
        ("path,label\n0.png,-1\n1.png,0\n", "label -1 is out of range"),
        ("path,label,class_name\n0.png,0,a\n1.png,0,b\n", "is called 'a' and 'b'"),
        ("path,label,class_name\n0.png,0,a\n1.png,2,b\n", "1 of them is never used"),
        ("path,label,class_name\n0.png,0,\n", "class name '' is not a name"),
        ("path,label\n0.png,_\n1.png,b\n", "class '_' has no usable name"),
        ("path,label\n0.png,red fox\n1.png,red_fox\n", "two classes are called 'red fox'"),
        ("path,label\n0.png,a\n", "has 1 class"),
        ('path,label\n"0.png,a\n', "not CSV"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CafeError) as caught:
        load_dataset(plant(tmp_path, text, "0.png", "1.png"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: not JSON"),
        ("\n[1]", 'line 2: expected {"path"'),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"path": "0.png"}', "no 'label', only 'path'"),
        ('{"path": 3, "label": "a"}', "3 is not the path"),
        ('{"path": "a\\u0000", "label": "a"}', "cannot be a file's name"),
        ('{"path": "\\ud800", "label": "a"}', "cannot be a file's name"),
        ('{"path": "0.png", "label": true}', "neither a name nor a number"),
        ('{"path": "0.png", "label": 0.5}', "neither a name nor a number"),
        ('{"path": "0.png", "label": "\\ud800"}', "has no usable name"),
        ('{"path": "0.png", "label": "a", "split": 1}', "split 1 is none of"),
        ('{"path": "0.png", "label": 0, "class_name": 1}', "class name 1 is not a name"),
    ],
)
def test_bad_jsonl(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset(plant(tmp_path, text, "0.png", name="m.jsonl"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_utf16_without_its_mark(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,label\n0.png,a\n".encode("utf-16-le"))
    with pytest.raises(
        DatasetError, match="holds NUL characters; if it is UTF-16, save it as UTF-8"
    ):
        load_dataset(tmp_path / "m.csv")


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"path,label\n\xff.png,a\n")
    with pytest.raises(DatasetError, match="not UTF-8 text"):
        load_dataset(tmp_path / "m.csv")


ONE = ("0.png", "1.png")
TABLES = {
    "any case and spaces": "Path , LABEL\n0.png,a\n1.png,b\n",
    "spaces behind commas": 'path, label, class name\n0.png, a, "an a"\n1.png, b, b\n',
    "semicolons": "path;label;Class-Name\n0.png;a;x\n1.png;b;y\n",
    "tabs": "path\tlabel\n0.png\ta\n1.png\tb\n",
    "bars": "label|path\na|0.png\nb|1.png\n",
    "semicolons around commas": 'path;label\n"0.png";"a, or so"\n1.png;b\n',
    "a spreadsheet's mark": "sep=;\npath;label\n0.png;a\n1.png;b\n",
    "empty lines and columns": "\npath,label,,\n,,,\n0.png,a,,\n1.png,b,,\n,,,\n\n",
    "line ends of Windows": "path,label\r\n0.png,a\r\n1.png,b\r\n",
    "line ends of old": "path,label\r0.png,a\r1.png,b\r",
    "a quoted line end": 'path,label,note\n0.png,a,"two\nlines"\n1.png,b,one\n',
    "quoted headers": '"path","label"\n"0.png","a"\n"1.png","b"\n',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("kind", TABLES)
def test_tables_as_programs_write_them(kind: str, encoding: str, tmp_path: Path) -> None:
    path = plant(tmp_path, "", *ONE, name="m.CSV")
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + TABLES[kind]).encode(encoding))
    dataset = load_dataset(path)
    assert {i.id for items in dataset.splits.values() for i in items} == set(ONE)
    assert len(dataset.class_names) == 2


@pytest.mark.parametrize("name", ["m.tsv", "m.TSV"])
def test_tsv(name: str, tmp_path: Path) -> None:
    path = plant(tmp_path, "path\tlabel\n0.png\ta\n1.png\tb\n", *ONE, name=name)
    assert load_dataset(path).class_names == ("a", "b")


def test_keys_of_jsonl_in_any_case(tmp_path: Path) -> None:
    text = '{"Path": "0.png", "LABEL": "a"}\n{"path": "1.png", "Label": "b"}'
    assert load_dataset(plant(tmp_path, text, *ONE, name="m.jsonl")).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("path,label,label\n0.png,a,b\n", "m.csv", "line 1: two columns are called 'label'"),
        ("path,label,Path\n0.png,a,b\n", "m.csv", "line 1: two columns are called 'path'"),
        ("path,label,x,X \n0.png,a,1,2\n", "m.csv", "line 1: two columns are called 'x'"),
        ('{"path": "0.png", "label": "a", "label": "b"}', "m.jsonl", "names 'label' twice"),
        ('{"path": "0.png", "label": "a", "Label": "b"}', "m.jsonl", "called 'label'; keep one"),
        *(
            (f"path,label\n{url},a\n", "m.csv", "is a URL, and cafe reads files; download")
            for url in ("https://x.y/1.jpg", "s3://bucket/1.jpg", "file:///home/1.jpg", "GS://b/1")
        ),
        ('path,label\n"data:image/png;base64,AAAA",a\n', "m.csv", "is a URL"),
    ],
)
def test_tables_that_are_refused(text: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset(plant(tmp_path, text, *ONE, name=name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("Subset", "ab"),
        ("fold", "01"),
        ("partition", "xy"),
        ("data_split", "tv"),
        ("is_test", "01"),
        ("kfold", "12"),
        ("usage", ["train", "test"]),
        ("x", ["Train", "VALID"]),
    ],
)
def test_what_looks_like_the_split_and_is_not_used(
    column: str, values: list[str], tmp_path: Path
) -> None:
    text = f"path,label,{column},author\n0.png,a,{values[0]},me\n1.png,b,{values[1]},you\n"
    dataset = load_dataset(plant(tmp_path, text, *ONE))
    assert dataset.notes == (
        f"not used: the column '{column}', which looks like the split; call it 'split' if it is",
        f"not used: columns of {tmp_path / 'm.csv'} ('author')",
    )


def test_a_column_beside_the_split_is_one_like_others(tmp_path: Path) -> None:
    text = "path,label,Split,fold\n0.png,a,train,1\n1.png,b,Train,2\n"
    dataset = load_dataset(plant(tmp_path, text, *ONE))
    assert len(dataset.splits["train"]) == 2
    assert dataset.notes == (f"not used: columns of {tmp_path / 'm.csv'} ('fold')",)


def test_columns_without_a_name(tmp_path: Path) -> None:
    text = "path,,label,,\n0.png,3,a,,\n1.png,4,b,,\n"
    dataset = load_dataset(plant(tmp_path, text, *ONE))
    assert dataset.notes == (f"not used: columns of {tmp_path / 'm.csv'} ('')",)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_whole_numbers_may_be_written_as_floats(name: str, tmp_path: Path) -> None:
    text = "path,label\n0.png,1.0\n1.png,0.0\n"
    if name.endswith("jsonl"):
        text = '{"path": "0.png", "label": 1.0}\n{"path": "1.png", "label": 0.0}\n'
    dataset = load_dataset(plant(tmp_path, text, *ONE, name=name), class_names=["no", "yes"])
    labels = {item.id: item.label for items in dataset.splits.values() for item in items}
    assert labels == {"0.png": 1, "1.png": 0}


def test_a_split_file_that_names_a_split_twice(tmp_path: Path) -> None:
    rows = '[["0.png", 0, "a"], ["1.png", 1, "b"]]'
    split = plant(tmp_path, f'{{"train": {rows}, "train": []}}', *ONE, name="split_x.json")
    with pytest.raises(DatasetError, match="names 'train' twice"):
        load_dataset(tmp_path, split_file=split)


def test_images_of_a_table_are_known_by_content(tmp_path: Path) -> None:
    from PIL import Image

    text = "path,label\nphoto,a\nx.dat,b\nnotes.jpg,b\n"
    path = plant(tmp_path, text, "notes.jpg")
    for name in ("photo", "x.dat"):
        Image.new("RGB", (3, 4)).save(tmp_path / name, "webp")
    dataset = load_dataset(path)
    for items in dataset.splits.values():
        for item in items:
            if item.id == "notes.jpg":
                with pytest.raises(OSError, match="cannot identify"):
                    dataset.open_image(item)
            else:
                assert dataset.open_image(item).size == (3, 4)


FIELD = st.one_of(
    st.sampled_from(["a.png", "../x", "/x", "C:\\x", "", "0", "1", "train", "val", "test", "a"]),
    st.text(max_size=6),
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.lists(st.integers(), max_size=2),
)
LINE = st.one_of(
    st.fixed_dictionaries(
        {"path": FIELD, "label": FIELD}, optional={"split": FIELD, "class_name": FIELD}
    ),
    st.dictionaries(st.sampled_from(["path", "label", "x"]), FIELD),
    FIELD,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(LINE, max_size=4))
def test_any_jsonl_gives_a_listing_or_an_error(lines: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        check(path)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_csv_gives_a_listing_or_an_error(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.csv"
        path.write_bytes(b"path,label,split\n" + content)
        check(path)


def one_line(error: CafeError) -> None:
    assert len(str(error).splitlines()) == 1


def check(path: Path) -> None:
    try:
        listing, _ = read_manifest(path, path.parent)
    except CafeError as error:
        one_line(error)
        return
    paths = [p for rows in listing.rows.values() for p, _ in rows]
    assert all(not p.startswith("/") and ".." not in p.split("/") for p in paths)
    for name in paths:
        if "/" not in name and len(name.encode()) < 200:
            (path.parent / name).touch()
    with contextlib.suppress(CafeError):
        assert isinstance(load_dataset(path), Dataset)
