"""CoOp and CPL on cached features: how long, and how right, beside a loop that encodes images.

    python benchmarks/coop.py [--seeds 3] [-o FILE.json]

The encoder is `nano`, the data the digits that ship with cafe. The plain loop is CoOp as its
authors train it, one run at a time: in every step the images go through the image tower and whole
sentences through the text tower, with an optimiser of torch. It is spared the decoding: its pixels
wait in memory. Same shots, same start, same order, so the accuracies must agree (within 1 point:
float32 sums in another order). Then one step in a tower of ViT-B size, and both methods with their
published recipes, per shot count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import cafe
from cafe.datasets import load_dataset
from cafe.encoders.encoder import Encoder
from cafe.encoders.text_tower import EncoderTower, load_tower
from cafe.engine import BatchOrder, Recipe
from cafe.engine.draws import normal_weights
from cafe.features.splits import draw_shots
from cafe.features.task import Task
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.prompt_learning.coop import INITIAL_STD, Coop
from cafe.methods.prompt_learning.prompts import Prompts
from cafe.methods.prompt_learning.training import rate
from cafe.results.metrics import accuracy
from cafe.store import FeatureCache

RECIPE = Recipe(lr=2e-3, weight_decay=5e-4, epochs=20, batch_size=32)
SHOTS, LEARNED = 16, 16


class Plain(torch.nn.Module):
    """`[v1] ... [v16] [class name].` through open_clip's text tower, a whole sentence each."""

    def __init__(self, encoder: Encoder, names: tuple[str, ...], context: Tensor) -> None:
        super().__init__()
        self.clip = encoder._network
        tokens = encoder.token_ids([f"{'x ' * LEARNED}{name}." for name in names])
        self.ends = tokens.argmax(dim=-1)
        with torch.no_grad():
            self.embedded = self.clip.token_embedding(tokens)
        self.context = torch.nn.Parameter(context.clone())

    def classes(self) -> Tensor:
        """Unit text features. (C, D)"""
        count = len(self.embedded)
        parts = (self.embedded[:, :1], self.context.expand(count, -1, -1))
        h = torch.cat([*parts, self.embedded[:, 1 + LEARNED :]], dim=1)
        h = h + self.clip.positional_embedding
        h = self.clip.ln_final(self.clip.transformer(h, attn_mask=self.clip.attn_mask))
        return normalize(h[torch.arange(count), self.ends] @ self.clip.text_projection, dim=-1)


def train_plain(
    encoder: Encoder, pixels: Tensor, train: TrainingSet, context: Tensor, seed: int
) -> Tensor:
    """Class weights of one run that encodes its images in every step. (C, D)"""
    model = Plain(encoder, train.text.names, context)
    optimizer = torch.optim.SGD(
        [model.context], RECIPE.lr, momentum=0.9, weight_decay=RECIPE.weight_decay
    )
    order = BatchOrder(seed, len(pixels))
    for epoch in range(RECIPE.epochs):
        optimizer.param_groups[0]["lr"] = rate(epoch, RECIPE)
        for rows in order.epoch().split(RECIPE.batch_size):
            x = normalize(encoder.encode_pixels(pixels[rows]).clone(), dim=-1)
            logits = train.text.logit_scale * x @ model.classes().T
            optimizer.zero_grad()
            cross_entropy(logits, train.features.y[rows]).backward()
            optimizer.step()
    return model.classes().detach()


def race(cache: FeatureCache, seeds: int) -> dict[str, Any]:
    """The same runs by cafe and by the plain loop."""
    task, tower = cafe.load_task(cache), load_tower(cache, device="cpu")
    encoder = cafe.load_encoder("nano", device="cpu", precision="fp32")
    method = Coop(LEARNED, tower=tower, recipe=RECIPE, context=Context(precision="fp32"))
    rows = [draw_shots(task.splits["train"].y, SHOTS, seed) for seed in range(seeds)]
    trains = [TrainingSet(task.splits["train"][chosen], task.text) for chosen in rows]
    start = now()
    heads = method.fit_many([Job(train, seed=seed) for seed, train in enumerate(trains)])
    ours = now() - start
    data = load_dataset("digits")
    items = data.splits["train"]
    plain = np.zeros(2)
    agreed = []
    for seed, (chosen, train, head) in enumerate(zip(rows, trains, heads, strict=True)):
        images = [data.open_image(items[int(row)]) for row in chosen]
        pixels = torch.from_numpy(np.stack([encoder.preprocess.pixels(one) for one in images]))
        context = start_of(tower, train, seed)
        start = now()
        weights = train_plain(encoder, pixels, train, context, seed)
        plain += now() - start
        agreed.append(both_accuracies(task, head.logits(task.splits["test"].x), weights))
    steps = RECIPE.epochs * -(-len(trains[0].features) // RECIPE.batch_size)
    return {
        "shots": SHOTS,
        "epochs": RECIPE.epochs,
        "runs": seeds,
        "steps_a_run": steps,
        "cafe_seconds_wall_processor": ours.tolist(),
        "plain_seconds_wall_processor": plain.tolist(),
        "times_faster": plain[1] / ours[1],
        "accuracies_cafe_plain": agreed,
    }


def now() -> np.ndarray:
    """Time on the clock and of the processor; the second does not count a busy neighbour."""
    return np.array([time.perf_counter(), time.process_time()])


def start_of(tower: EncoderTower, train: TrainingSet, seed: int) -> Tensor:
    """The context that cafe starts from. (T, W)"""
    width = tower.look_up(tower.tokens(train.text.names[:1])).shape[-1]
    return normal_weights(seed, INITIAL_STD, (1, LEARNED, width))[0]


def both_accuracies(task: Task, logits: Tensor, plain: Tensor) -> tuple[float, float]:
    """Test accuracy of cafe's head and of the plain loop's class weights."""
    test = task.splits["test"]
    return accuracy(logits, test.y), accuracy(normalize(test.x, dim=-1) @ plain.T, test.y)


def large_step(model: str = "RN50") -> dict[str, Any]:
    """Processor seconds of one step of 3 runs and 10 classes in a large tower, untrained.

    Once on the places up to the sentence's end, as cafe does it, once on whole sentences.
    """
    tower = EncoderTower(cafe.load_encoder(model, "none", device="cpu", precision="fp32"))
    found: dict[str, Any] = {"model": model}
    for name in ("to_the_end", "whole"):
        if name == "whole":
            tower.trim = lambda tokens: tokens
        names = [f"thing {letter}" for letter in "abcdefghij"]
        prompts = Prompts(tower, names, LEARNED, torch.device("cpu"))
        contexts = torch.zeros(3, 1, *prompts.shape, requires_grad=True)
        best = float("inf")
        for _ in range(3):
            start = now()
            torch.autograd.grad(prompts.features(contexts).sum(), [contexts])
            best = min(best, float((now() - start)[1]))
        found[name] = {"places": prompts.tokens.shape[1], "seconds": best}
    return found


def published(cache: FeatureCache, seeds: int) -> list[dict[str, Any]]:
    """Methods with their own recipes, per shot count."""
    tower = load_tower(cache, device="cpu")
    found = cafe.compare(
        cache,
        methods=["zero-shot", "coop", "cpl", "clip-adapter", "clip-adapter-text"],
        shots=[1, 4, 16],
        seeds=seeds,
        needs=lambda _: {"tower": tower},
        device="cpu",
        runs=None,
    )
    keys = ("method", "shots", "seconds")
    return [
        {
            **{key: row[key] for key in keys},
            "accuracy": row["accuracy"]["mean"],
            "ci95": row["accuracy"]["ci95"],
        }
        for row in found.json["results"]
    ]


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as home:
        extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
        cache = extractor.extract("digits", cache=home)
        result = {"race": race(cache, arguments.seeds)}
        print(json.dumps(result["race"], indent=1))
        result["large_step"] = large_step()
        print(json.dumps(result["large_step"]))
        result["published"] = published(cache, arguments.seeds)
    for row in result["published"]:
        print(json.dumps(row))
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load_at_start": load,
        "torch": torch.__version__,
    }
    if arguments.output:
        text = json.dumps({"machine": machine, "seeds": arguments.seeds, **result}, indent=1)
        arguments.output.write_text(text + "\n", encoding="utf-8")
    for ours, plain in result["race"]["accuracies_cafe_plain"]:
        assert abs(ours - plain) <= 1.0, "cafe and the plain loop disagree"


if __name__ == "__main__":
    main()
