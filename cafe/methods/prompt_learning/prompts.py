"""Text towers that take token embeddings, and the prompts of all classes; knows no encoder.

A learned context is a few vectors in the place of words. The encoder itself lies on the other side
of the store, so what is needed of it is said here; `cafe.encoders.text_tower` makes it of an
encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cafe.errors import InputError


@runtime_checkable
class TextTower(Protocol):
    """A frozen text encoder, differentiable with respect to its token embeddings.

    Sentences are L tokens long, each embedded in W numbers.

    Attributes
    ----------
    width : int
        Feature width D.
    """

    width: int

    def tokens(self, sentences: Sequence[str]) -> Tensor:
        """Token ids of n sentences, padded or cut to the encoder's length, on the CPU. (n, L)"""

    def look_up(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens, float32. (n, L) -> (n, L, W)"""

    def encode(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """Raw text features, with a gradient.

        Parameters
        ----------
        embeddings : Tensor
            What stands at each place. (n, L, W)
        tokens : Tensor
            Ids that say where a sentence ends and where it is padded. (n, L)

        Returns
        -------
        Tensor
            Features. (n, D)
        """

    def to(self, device: torch.device) -> TextTower:
        """The same tower on a device."""

    def floats(self, length: int) -> int:
        """Numbers that `encode` keeps for a gradient, per sentence of so many tokens."""

    def trim(self, tokens: Tensor) -> Tensor:
        """Leave out places at the end that change no feature of these sentences. (n, L')"""
        return tokens


@dataclass(frozen=True)
class _Frame:
    """How a tokenizer writes a sentence: `head`, the words' tokens, `tail` (end and padding)."""

    head: list[int]
    tail: list[int]

    @classmethod
    def of(cls, tower: TextTower) -> _Frame:
        empty, letter = tower.tokens(["", "a"]).tolist()
        start = int(empty[0] == letter[0])  # SigLIP's tokenizers have no token at the start
        return cls(empty[:start], empty[start:])

    def words(self, row: Sequence[int]) -> list[int]:
        """The words' tokens of a sentence."""
        end, padding = self.tail[0], self.tail[-1]
        words = list(row[len(self.head) :])
        while words and words[-1] == padding:
            words.pop()
        return words[:-1] if words[-1:] == [end] else words

    def sentence(self, words: Sequence[int]) -> list[int]:
        """A sentence of these words' tokens."""
        length = len(self.head) + len(self.tail)
        return [*self.head, *words, *self.tail][:length]

    def room(self) -> int:
        """Tokens that a sentence can have between its head and its end."""
        return len(self.tail) - 1


class Prompts:
    """`[context] [class name].` of every class, as embeddings with room for T learned ones.

    Parameters
    ----------
    tower : TextTower
        On the device where prompts are learned.
    names : sequence of str
        Class names; underscores become spaces. (C,)
    prompt : int or str
        T, or words that a context starts from.
    device : torch.device
        Where the embeddings go.

    Attributes
    ----------
    words : Tensor or None
        Embeddings of the words, where a context starts from words. (T, W)
    shape : tuple of int
        (T, W) of a context.
    alike : (int, int) or None
        Two classes whose names are the same tokens, which one context for all cannot tell apart.

    Raises
    ------
    InputError
        If a prompt is longer than the encoder takes, or the words are no token.
    """

    def __init__(
        self, tower: TextTower, names: Sequence[str], prompt: int | str, device: torch.device
    ) -> None:
        frame = _Frame.of(tower)
        started, filler = map(frame.words, tower.tokens([str(prompt), "x"]).tolist())
        context = started if isinstance(prompt, str) else filler[:1] * prompt
        if not context:
            raise InputError(f"prompt '{prompt}' has no words; give some, or how many to learn.")
        spaced = [name.replace("_", " ") for name in names]
        rows = [frame.words(row) for row in tower.tokens([f"{name}." for name in spaced]).tolist()]
        _check_room(frame, len(context), rows, names)
        sentences = [frame.sentence([*context, *row]) for row in rows]
        self.tower = tower
        self.tokens = tower.trim(torch.tensor(sentences)).to(device)  # (C, L)
        self._start = len(frame.head)
        self._plain = tower.look_up(self.tokens)  # (C, L, W)
        place = slice(self._start, self._start + len(context))
        self.words = self._plain[0, place].clone() if isinstance(prompt, str) else None
        self.shape = (len(context), self._plain.shape[-1])
        self.alike = _find_alike(rows)

    @property
    def cost(self) -> int:
        """Bytes that one class's prompt holds while contexts are trained: an upper estimate."""
        return 4 * self.tower.floats(self.tokens.shape[1])

    def features(self, contexts: Tensor, block: int | None = None) -> Tensor:
        """Raw text features of every class under every context.

        Parameters
        ----------
        contexts : Tensor
            One for all classes, or one for each. (R, 1 or C, T, W)
        block : int or None
            Prompts to hold for the gradient at a time; the others are computed again on the way
            back. None holds all.

        Returns
        -------
        Tensor
            Features. (R, C, D)
        """
        runs, classes = len(contexts), len(self.tokens)
        prompts = self._with(contexts).flatten(0, 1)  # (R * C, L, W)
        tokens = self.tokens.repeat(runs, 1)  # (R * C, L)
        if block is None or block >= len(tokens):
            return self.tower.encode(prompts, tokens).view(runs, classes, -1)
        parts = zip(torch.split(prompts, block), torch.split(tokens, block), strict=True)
        found = [checkpoint(self.tower.encode, *part, use_reentrant=False) for part in parts]
        return torch.cat(found).view(runs, classes, -1)

    def _with(self, contexts: Tensor) -> Tensor:
        """Every prompt with the contexts in their place. (R, C, L, W)"""
        runs, classes = len(contexts), len(self.tokens)
        before, after = self._plain[:, : self._start], self._plain[:, self._start + self.shape[0] :]
        parts = (
            before.expand(runs, *before.shape),
            contexts.expand(-1, classes, -1, -1),
            after.expand(runs, *after.shape),
        )
        return torch.cat(parts, dim=2)


def _find_alike(rows: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    """The first two classes whose names have the same tokens."""
    seen: dict[tuple[int, ...], int] = {}
    for number, row in enumerate(rows):
        if seen.setdefault(tuple(row), number) != number:
            return seen[tuple(row)], number
    return None


def _check_room(
    frame: _Frame, context: int, rows: Sequence[Sequence[int]], names: Sequence[str]
) -> None:
    longest = max(range(len(rows)), key=lambda number: len(rows[number]))
    if context + len(rows[longest]) > frame.room():
        raise InputError(
            f"a prompt of {context} learned tokens and the {len(rows[longest])} of "
            f"'{names[longest]}' does not fit this encoder, which takes {frame.room()}; learn "
            "fewer with --prompt."
        )
