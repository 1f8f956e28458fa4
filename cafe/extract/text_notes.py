"""What an encoder does not read of the classes' sentences: said before anything is encoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch import Tensor

from cafe.datasets.text_files import quote_some
from cafe.encoders.encoder import Encoder
from cafe.errors import counted, verb


def text_notes(
    encoder: Encoder, class_names: Sequence[str], sentences: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Sentences that are cut, and classes whose sentences are the same for the encoder.

    Parameters
    ----------
    encoder : Encoder
    class_names : sequence of str
        (C,)
    sentences : sequence of sequence of str
        Prompts of every class; lengths may differ. (C, P)
    """
    if not encoder.has_text:
        yield f"{encoder.model} has no text tower: its cache is without text of the classes."
        return
    flat = [sentence for row in sentences for sentence in row]
    owners = [number for number, row in enumerate(sentences) for _ in row]
    token_ids = encoder.token_ids(flat)
    cut = encoder.places_cut(flat, token_ids)
    if cut:
        classes = len({owners[place] for place in cut})
        yield (
            f"{len(cut):,} of {len(flat):,} sentences, of {counted(classes, 'class')}, "
            f"{verb(len(cut), 'are')} longer than the {token_ids.shape[1]} tokens that "
            f"{encoder.model} reads and {verb(len(cut), 'are')} cut; the first is of "
            f"'{class_names[owners[cut[0]]]}': shorten them."
        )
    cut_classes = {owners[place] for place in cut}
    for group in _same(owners, token_ids):
        names = quote_some(class_names[number] for number in group)
        yield (
            f"classes {', '.join(map(str, group[:3]))} ({names}) have the same text for "
            f"{encoder.model} ({_why(group, sentences, cut_classes)}): give each class sentences "
            "of its own, as methods that read the text refuse them."
        )


def _same(owners: Sequence[int], token_ids: Tensor) -> list[list[int]]:
    """Groups of classes that have the same token ids."""
    rows: dict[int, set[bytes]] = defaultdict(set)
    for owner, row in zip(owners, token_ids.numpy(), strict=True):
        rows[owner].add(row.tobytes())
    groups: dict[frozenset[bytes], list[int]] = defaultdict(list)
    for owner, tokens in rows.items():
        groups[frozenset(tokens)].append(owner)
    return [group for group in groups.values() if len(group) > 1]


def _why(group: Sequence[int], sentences: Sequence[Sequence[str]], cut: set[int]) -> str:
    if len({frozenset(sentences[number]) for number in group}) == 1:
        return "their sentences are equal"
    if cut & set(group):
        return "what tells them apart is cut"
    return "it ignores in what they differ, such as capitals or how accents are written"
