"""A run in two sentences: which method is the best, and by how much."""

from __future__ import annotations

from cafe.errors import counted
from cafe.report.ranking import is_clear, score
from cafe.report.report_data import ReportData
from cafe.results.result import Result
from cafe.store.key import say_items


def headline(run: ReportData) -> str:
    """The best method of a run, as a title."""
    best, methods = run.best(run.focus[1]), len(run.standings[0].results)
    if len(run.methods) == 1:
        return f"{best.method} on {run.name}"
    return f"{best.method} is the best of {methods} methods on {run.name}"


def standing(run: ReportData) -> str:
    """How good the best method is, beside zero-shot CLIP and the next."""
    shots = run.focus[1]
    best = run.best(shots)
    test = say_items("of the test images", run.noun)
    what = "harmonic mean of base and new classes" if best.harmonic_mean else test
    shown = counted(shots, f"training {run.noun}")
    sentences = [f"With {shown} per class: {score(best):.2f} % {what}"]
    zero_shot = run.results.get(("zero-shot", shots))
    if zero_shot is not None and best.method != "zero-shot":
        gain = score(best) - score(zero_shot)
        sentences[0] += f", {gain:+.2f} points beside zero-shot CLIP"
    first, *apart = run.standings
    sentences += _next(best, first.results[1:])
    for group, results in apart:
        sentences.append(f"{group}: {results[0].method} has {score(results[0]):.2f} %")
    return ". ".join(f"{text[0].upper()}{text[1:]}" for text in sentences) + "."


def _next(best: Result, others: list[Result]) -> list[str]:
    if not others:
        return []
    second = others[0]
    words = {
        True: "the difference is larger than its 95 % interval over the seeds",
        False: "the seeds do not tell the two apart",
        None: "one seed cannot tell the two apart",
    }[is_clear(best, second)]
    return [f"Next is {second.method} with {score(second):.2f} %: {words}"]
