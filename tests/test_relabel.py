"""`cafe relabel` changes what was kept and nothing else, and there is always a way back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from making import draw_image

import cafe
from cafe.curation import relabel as relabel_module
from cafe.curation import relabel_undo as module
from cafe.curation.relabel import relabel
from cafe.curation.suggestions import Suggestion, write_suggestions
from cafe.datasets import load_dataset
from cafe.datasets.relabel_list import edit_list
from cafe.errors import CafeError, InputError, UnknownNameError
from cafe.serve.corrections import CONFIRMED, CORRECTED, Corrections


def suggest(path: Path, *rows: tuple[str, str, str]) -> Path:
    write_suggestions(path, [Suggestion(i, "label", a, b, 0.9) for i, a, b in rows])
    return path


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for label, name in enumerate(("red_fox", "wolf")):
        (root / name).mkdir(parents=True)
        for row in range(4):
            draw_image(10 * label + row).save(root / f"{name}/{row}.png")
    return root


LISTS = {
    "m.csv": 'path,label,split\r\na.png,cat,train\r\n\r\n"b,2.png",cat,test\r\n'
    "c.png,dog,train\r\nd.png,dog,test",
    "semi.csv": "\ufeffNote;Label;Path\nx;cat;a.png\ny; cat;b,2.png\nz;dog;c.png\n",
    "n.tsv": "path\tlabel\tclass_name\na.png\t0\tcat\nb,2.png\t0\tcat\nc.png\t1\tdog\n",
    "l.jsonl": '{"path": "a.png",  "label": "cat", "x": 1}\n{"label": "cat", "path": "b,2.png"}\n'
    '{"path": "c.png", "label": "dog"}\n',
    "split_x.json": '{"train": [["a.png", 0, "cat"], ["c.png", 1, "dog"]],'
    ' "test": [["b,2.png", 0, "cat"]]}',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_edited_and_restored(tmp_path: Path, name: str) -> None:
    text = LISTS[name]
    file = tmp_path / name
    file.write_bytes(text.encode())
    rows = suggest(tmp_path / "s.csv", ("b,2.png", "cat", "dog"), ("zz.png", "cat", "dog"))
    made = relabel(rows, file)
    assert made.changes == [("b,2.png", "cat", "dog")]
    assert made.left == ["zz.png: not in the dataset"]
    now = file.read_bytes().decode()
    assert now != text
    assert now.count("cat") == text.count("cat") - 1
    if name != "split_x.json":  # lines that are not meant are as they were
        before, after = text.splitlines(), now.splitlines()
        assert len(before) == len(after)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    again = relabel(rows, file)
    assert (again.done, again.left[0]) == (False, "b,2.png: is of that class already")
    assert made.undo is not None
    assert relabel(made.undo).done
    assert file.read_bytes() == text.encode()
    assert not relabel(made.undo).done


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["m.csv", "l.jsonl", "split_x.json"])
def test_a_list_keeps_its_encoding(tmp_path: Path, name: str, codec: str) -> None:
    mark = "" if codec == "utf-8-sig" else "\ufeff"
    (tmp_path / name).write_bytes(f"{mark}{LISTS[name]}".encode(codec))
    begins = (tmp_path / name).read_bytes()[:4]
    edited = edit_list(tmp_path / name, {"b,2.png": ("cat", "dog")}).content
    assert edited.startswith(begins)
    assert edited.decode(codec).count("dog") == LISTS[name].count("dog") + 1


def test_a_list_that_was_changed_since_is_left(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("path,label\na.png,cat\nb.png,dog\n")
    undo = relabel(suggest(tmp_path / "s.csv", ("a.png", "cat", "dog")), file).undo
    file.write_text("path,label\na.png,dog\nb.png,dog\nc.png,cat\n")
    assert undo is not None
    with pytest.raises(InputError, match="was changed after"):
        relabel(undo)
    assert "c.png" in file.read_text()


def test_images_are_moved_only_when_it_is_said(photos: Path, tmp_path: Path) -> None:
    before = content(photos)
    rows = suggest(
        tmp_path / "s.csv", ("red_fox/1.png", "red fox", "wolf"), ("wolf/0.png", "wolf", "red fox")
    )
    made = relabel(rows, photos)
    assert not made.done
    assert content(photos) == before
    assert made.changes[0][1:] == ("red_fox/1.png", "wolf/1-2.png")  # 1.png is taken
    made = relabel(rows, photos, yes=True)
    after = content(photos)
    assert sorted(after.values()) == sorted(before.values())
    assert after["wolf/1-2.png"] == before["red_fox/1.png"]
    assert after["wolf/1.png"] == before["wolf/1.png"]
    assert made.undo is not None
    assert not relabel(made.undo).done  # nothing moves without --yes
    assert content(photos) == after
    assert relabel(made.undo, yes=True).done
    assert content(photos) == before
    assert not relabel(made.undo, yes=True).done


def test_nothing_is_overwritten_on_the_way_back(photos: Path, tmp_path: Path) -> None:
    rows = suggest(tmp_path / "s.csv", ("red_fox/1.png", "", "wolf"))
    made = relabel(rows, photos, yes=True)
    (photos / "red_fox/1.png").write_bytes(b"new")
    assert made.undo is not None
    back = relabel(made.undo, yes=True)
    assert back.left == ["red_fox/1.png: another file is there"]
    assert (photos / "red_fox/1.png").read_bytes() == b"new"


def test_what_another_program_moved_meanwhile_is_left(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = relabel_module.write_undo

    def slow(path: Path, **content: object) -> None:
        write(path, **content)
        (photos / "red_fox/0.png").unlink()

    monkeypatch.setattr(relabel_module, "write_undo", slow)
    rows = suggest(tmp_path / "s.csv", ("red_fox/0.png", "", "wolf"), ("red_fox/1.png", "", "wolf"))
    made = relabel(rows, photos, yes=True)
    assert [change[0] for change in made.changes] == ["red_fox/1.png"]
    assert made.left == ["red_fox/0.png: another program has moved it, or taken its new place"]


def test_folders_of_splits_keep_their_split(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for split in ("train", "test"):
        shutil.copytree(photos, root / split)
    made = relabel(
        suggest(tmp_path / "s.csv", ("test/wolf/3.png", "wolf", "red fox")), root, yes=True
    )
    assert made.changes[0][2] == "test/red_fox/3-2.png"


@pytest.mark.parametrize("moment", range(5))
def test_killed_at_any_moment_it_can_be_taken_back(
    photos: Path, tmp_path: Path, moment: int
) -> None:
    """The process dies before, within and after each of two moves."""
    before = content(photos)
    suggest(tmp_path / "s.csv", ("red_fox/0.png", "", "wolf"), ("red_fox/1.png", "", "wolf"))
    program = (
        "import os, sys, pathlib\n"
        "left = [int(sys.argv[1])]\n"
        "def dying(call):\n"
        "    def wrapped(*a, **k):\n"
        "        left[0] -= 1\n"
        "        if left[0] < 0: os._exit(9)\n"
        "        return call(*a, **k)\n"
        "    return wrapped\n"
        "from cafe.curation import relabel_undo as m\n"
        "from cafe.curation.relabel import relabel\n"
        "m.os.link = dying(os.link)\n"
        "m._unlink = dying(m._unlink)\n"
        "relabel(sys.argv[2], sys.argv[3], yes=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(moment), str(tmp_path / "s.csv"), str(photos)],
        check=False,
    )
    assert done.returncode == (9 if moment < 4 else 0)
    now = content(photos)
    assert set(before.values()) == set(now.values())
    relabel(tmp_path / "s.undo.json", yes=True)
    assert content(photos) == before


@pytest.mark.parametrize("image", ["../../etc/passwd", "/etc/passwd", "red_fox/../wolf/0.png", "x"])
def test_an_image_that_is_not_in_the_dataset_is_left(
    photos: Path, tmp_path: Path, image: str
) -> None:
    made = relabel(suggest(tmp_path / "s.csv", (image, "", "wolf")), photos, yes=True)
    assert made.left == [f"{image}: not in the dataset"]


def test_a_link_that_leads_out_is_not_followed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    draw_image(50).save(tmp_path / "outside/0.png")
    (photos / "away").symlink_to(tmp_path / "outside")
    rows = suggest(tmp_path / "s.csv", ("away/0.png", "", "wolf"))
    with pytest.raises(InputError, match="leads out"):
        relabel(rows, photos, yes=True)


@pytest.mark.parametrize(
    "undo",
    [
        {"folder": "PHOTOS", "moves": [["../evil.png", "wolf/0.png"]]},
        {"folder": "PHOTOS", "moves": [["wolf/9.png", "/etc/passwd"]]},
        {"folder": "PHOTOS", "moves": [["wolf/9.png"]]},
        {"folder": "PHOTOS", "moves": 3},
        {"list": "/etc/passwd", "before": "", "sha256": ""},
        {"list": "m.csv"},
        {},
    ],
)
def test_a_hostile_undo_file_is_refused(
    photos: Path, tmp_path: Path, undo: dict[str, object]
) -> None:
    before = content(photos)
    file = tmp_path / "x.undo.json"
    text = json.dumps({"kind": module._KIND, **undo}).replace("PHOTOS", str(photos))
    file.write_text(text)
    with pytest.raises(CafeError) as caught:
        relabel(file, yes=True)
    assert "\n" not in str(caught.value)
    assert content(photos) == before


def test_what_makes_no_sense_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean wolf"):
        relabel(
            suggest(tmp_path / "s.csv", ("wolf/0.png", "", "wolv"), ("red_fox/0.png", "", "wolff")),
            photos,
        )
    with pytest.raises(InputError, match="which dataset"):
        relabel(suggest(tmp_path / "s.csv", ("wolf/0.png", "", "red fox")))
    with pytest.raises(InputError, match="two classes"):
        relabel(suggest(tmp_path / "s.csv", ("a", "", "x"), ("a", "", "y")), photos)
    with pytest.raises(InputError, match="no row"):
        relabel(suggest(tmp_path / "s.csv", ("wolf/0.png", "wolf", "")), photos)
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CafeError, match="no list of images"):
        relabel(suggest(tmp_path / "s.csv", ("a", "", "x")), tmp_path / "m.csv")


@pytest.mark.usefixtures("photos")
def test_from_check_to_the_next_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset is noted, features are taken over, and the labels are new."""
    monkeypatch.chdir(tmp_path)
    found = cafe.check("photos", model="nano", cache="cache")
    file = found.write_suggestions("s.csv")
    suggest(file, ("red_fox/0.png", "red fox", "wolf"))
    assert relabel(file, yes=True).done
    extractor = cafe.Extractor("nano")
    cache = extractor.extract("photos", cache="cache")
    assert extractor.extraction_.images == 0
    labels = {
        name: cache.header.class_names[label]
        for split in cache.counts
        for name, label in zip(cache.ids(split), cache.labels(split), strict=True)
    }
    assert labels["wolf/0-2.png"] == "wolf"
    assert "red_fox/0.png" not in labels
    assert len(labels) == 8
    assert os.fspath(load_dataset("photos").root or "") == "photos"


def test_other_class_names_of_the_check_are_those_of_the_folders(
    photos: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"red_fox": "Vulpes vulpes", "wolf": "Canis lupus"}')
    rows = suggest(tmp_path / "s.csv", ("wolf/1.png", "Canis lupus", "Vulpes vulpes"))
    with pytest.raises(UnknownNameError):
        relabel(rows, photos, yes=True)
    noted = {"dataset": str(photos), "class_names": str(names)}
    (tmp_path / "s.dataset.json").write_text(json.dumps(noted))
    assert relabel(rows).changes == [("wolf/1.png", "wolf/1.png", "red_fox/1-2.png")]
    assert relabel(rows, photos, class_names=names, yes=True).done
    assert (photos / "red_fox/1-2.png").is_file()


@pytest.mark.parametrize("name", LISTS)
def test_other_class_names_are_those_of_a_list_whose_images_are_elsewhere(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text(LISTS[name])
    names = tmp_path / "names.json"
    names.write_text('{"cat": "Felis catus", "dog": "Canis familiaris"}')
    rows = suggest(tmp_path / "s.csv", ("c.png", "Canis familiaris", "Felis catus"))
    made = relabel(rows, tmp_path / name, class_names=names)
    assert made.changes == [("c.png", "dog", "cat")]


def test_corrections_of_the_web_page_are_applied_and_taken_back(
    photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    corrections = Corrections(tmp_path / "model/corrections.csv")
    before = content(photos)
    corrections.add({"wolf/1.png": Suggestion("wolf/1.png", CORRECTED, "wolf", "red_fox")})
    corrections.add({"wolf/2.png": Suggestion("wolf/2.png", CONFIRMED, "wolf", "wolf")})
    made = relabel(corrections.path, photos, yes=True)
    assert [change[0] for change in made.changes] == ["wolf/1.png"]
    assert made.undo == tmp_path / "model/corrections.undo.json"
    assert relabel(made.undo, yes=True).done
    assert content(photos) == before
