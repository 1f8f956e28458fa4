"""Make the files beside this script with the cafe that is installed: `python make.py`.

Version 0.1 wrote them, and they stay as they are: `test_written_by_0_1.py` shows that what a user
keeps from then is still read. Everything runs in a temporary folder with relative paths, through
the command line and `import cafe` alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import cafe

HERE = Path(__file__).resolve().parent
CLASSES = ("one", "three", "seven")
IMAGES = {"train": 4, "val": 2, "test": 4}
NANO, TINY = "cache/few/nano.glyphs.h5", "cache/few/tiny.none.h5"
ENCODER = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 16,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}
"""Untrained weights (seed 0): 16 numbers an image, so that a head of every method is small."""
SMALL = ["--bottleneck", "2", "--epochs", "5"]
GRID = [
    *["--ratio", "0.2,0.6", "--bottleneck", "2,4", "--shots", "2", "--seeds", "1"],
    *["--epochs", "3", "--precision", "fp32", "--validation", "few-shot"],
]


def run(*words: str) -> str:
    """Run `cafe` in the working folder; its standard output."""
    command = [str(Path(sys.executable).with_name("cafe")), *words]
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout


def study(name: str, *words: str) -> None:
    """A run, saved as `runs/<name>`."""
    run(*words, "--runs", "new", "--device", "cpu")
    (folder,) = Path("new").glob("[!.]*")
    folder.rename(Path("runs", name))


def draw_images() -> None:
    """A few of the digits as a folder of images."""
    digits = cafe.load_dataset("digits")
    for split, count in IMAGES.items():
        for name in CLASSES:
            label = digits.class_names.index(name)
            items = [item for item in digits.splits[split] if item.label == label]
            for item in items[:count]:
                path = Path("few", split, name, f"{item.id}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                digits.open_image(item).save(path)


def make() -> None:
    """All files, in the working folder."""
    draw_images()
    Path("runs").mkdir()
    Path("tiny.json").write_text(json.dumps(ENCODER), encoding="utf-8")
    extract = ["extract", "--dataset", "few", "--precision", "fp32", "--device", "cpu"]
    nano = [*extract, "--model", "nano", "--template", "a {}."]
    run(*nano)  # format 1
    tiny = ["--model", "tiny.json", "--pretrained", "none", "--views", "2"]
    run(*extract, *tiny, "--spatial", "--pool", "2")  # format 2
    run("cache", "export", "few/tiny.none", "few.npz")
    run("cache", "import", "few.npz", "given/tiny.none")
    run("meta-train", TINY, "-o", "meta.safetensors", "--shots", "2", "--device", "cpu")
    study("fit", "fit", NANO, "--shots", "1,2", "--seeds", "1", "--ratio", "0.2", *SMALL)
    study("fit-ratio-auto", "fit", NANO, "--shots", "4", "--seeds", "1", "--ratio", "auto", *SMALL)
    study("fit-ratio-learn", "fit", TINY, "--shots", "4", "--seeds", "1", "--ratio", "learn")
    study("fit-auto", "fit", TINY, "--shots", "4", "--seeds", "1", "--method", "auto")
    closed = ["--method", "tip-adapter", "--method", "lda-prior"]
    study("fit-closed", "fit", NANO, "--shots", "2", "--seeds", "1", *closed)
    words = ["--methods", ",".join(names()), "--meta", "meta.safetensors"]
    words += ["--encoder", "tiny.json", "--pretrained", "none", "--shots", "4", "--seeds", "1"]
    study("compare", "compare", TINY, *words)
    study("base-to-new", "compare", TINY, "--base-to-new", "--shots", "4", "--seeds", "3,5")
    study("grid", "grid", NANO, *GRID)
    interrupt_a_grid()


def names() -> list[str]:
    """All methods."""
    return [row["name"] for row in json.loads(run("methods", "--json"))]


def interrupt_a_grid() -> None:
    """The same grid with two seeds more, stopped when most is done; its rows wait in `runs`."""

    def stop(_: str, done: int, total: int) -> None:
        if done > 0.6 * total:
            raise KeyboardInterrupt

    try:
        cafe.grid(
            NANO,
            ratio="0.2,0.6",
            bottleneck="2,4",
            shots=2,
            epochs=3,
            seeds=3,
            validation="few-shot",
            precision="fp32",
            memory=320_000,
            device="cpu",
            progress=stop,
        )
    except KeyboardInterrupt:
        return
    raise AssertionError("the grid was not stopped")


def answers(path: Path, cache: cafe.FeatureCache) -> dict[str, Any]:
    """What a saved head says of the cache's test images."""
    saved = cafe.load_head(path)
    x = torch.from_numpy(cache.read("test", dtype="float32").features)
    if path.name.startswith("vt-clip"):  # it takes the feature and then its map
        maps = torch.from_numpy(cache.read_tokens("test", dtype="float32"))
        x = torch.cat([x[:, None], maps], dim=1)
    found = saved.probabilities(x)
    labels = [saved.class_names[place] for place in found.argmax(dim=1).tolist()]
    numbers = [[round(value, 4) for value in row] for row in found.tolist()]
    return {"class_names": list(saved.class_names), "labels": labels, "probabilities": numbers}


def expected() -> dict[str, Any]:
    """What today's code says of the files."""
    runs: dict[str, Any] = {}
    images: dict[str, Any] = {}
    for folder in sorted(Path("runs").glob("[!.]*")):
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        cache = cafe.FeatureCache.open(record["cache"])
        heads = sorted(folder.glob("*.safetensors"))
        runs[folder.name] = {
            "cache": record["cache"],
            "accuracy": {
                f"{row['method']}.{row['shots']}shot": row["accuracy"]["per_seed"]
                for row in record["results"]
            },
            "heads": {head.name: answers(head, cache) for head in heads},
        }
    for name in ("fit", "fit-ratio-auto", "fit-closed", "grid"):
        words = ["predict", f"runs/{name}", "few/test", "--format", "jsonl", "--top", "4"]
        lines = run(*words, "--device", "cpu").splitlines()
        images[name] = [json.loads(line) for line in lines]
    return {
        "caches": {
            path.as_posix(): {
                "content_sha256": (cache := cafe.FeatureCache.open(path)).content_sha256,
                "counts": dict(cache.counts),
                "width": cache.width,
                "views": cache.views,
                "tokens": cache.tokens,
                "class_names": list(cache.header.class_names),
                "key": dict(cache.header.key),
            }
            for path in sorted(Path("cache").glob("*/*.h5"))
        },
        "runs": runs,
        "predict": images,
        "names": list(cafe.__all__),
        "methods": names(),
        "commands": commands(),
    }


def commands(*above: str) -> dict[str, list[list[str]]]:
    """Every command with its options, from its help: the names, and "value" if it takes one."""
    page = run(*above, "--help")
    found: dict[str, list[list[str]]] = {}
    _, _, inside = page.partition("\nCommands:\n")
    listed = re.findall(r"^  ([\w-]+)  ", inside, re.MULTILINE)
    for name in listed:
        found |= commands(*above, name)
    if listed and above:
        return found
    pattern = r"^  ((?:-\w, )?--[\w-]+)( <[^>]+>| [A-Z]+)?(?=  |$)"
    options = re.findall(pattern, page.partition("\nOptions:\n")[2], re.MULTILINE)
    found[" ".join(above)] = [
        [*shown.split(", "), *(["value"] if value else [])] for shown, value in options
    ]
    return found


def main() -> None:
    """Make everything anew, beside this script."""
    with tempfile.TemporaryDirectory(prefix="cafe.") as work:
        os.chdir(work)
        for name in ("CAFE_CACHE", "CAFE_DATA"):
            os.environ.pop(name, None)
        make()
        Path("expected.json").write_text(json.dumps(expected()) + "\n", encoding="utf-8")
        for name in ("cache", "few", "runs", "meta.safetensors", "tiny.json", "expected.json"):
            target = HERE / name
            if target.is_dir():
                shutil.rmtree(target)
            (shutil.copytree if Path(name).is_dir() else shutil.copy)(name, target)
        os.chdir(HERE)


if __name__ == "__main__":
    main()
