"""An encoder's text tower with token embeddings for input: it joins the encoders to the methods.

Most text towers attend backwards only and are read at the end of the sentence, so what follows
the end changes nothing: their parts are run here on as many places as the longest sentence has
(some 25 of 77 for a learned context). All others (CoCa, SigLIP, Hugging Face's) run as they are,
with the embeddings put in where they look theirs up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cafe.devices import resolve_device
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.errors import CacheMismatchError, InputError, UnknownNameError, WeightsError
from cafe.store import FeatureCache
from cafe.store.key import differences

_PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
_AT_THE_END = ("argmax", "eos")


class EncoderTower:
    """The text tower of a cafe encoder.

    Parameters
    ----------
    encoder : Encoder
        In float32: contexts are learned in it. Its network moves with the tower.

    Raises
    ------
    InputError
        If the weights are not float32, or no token embedding is found.
    """

    def __init__(self, encoder: Encoder) -> None:
        if encoder.precision != "fp32":
            raise InputError(
                f"prompts are learned in fp32 and this encoder is in {encoder.precision}; load it "
                "with precision='fp32'."
            )
        self.width, self.device = encoder.width, encoder.device
        self._encoder = encoder
        self._network: Any = encoder._network
        self._causal = _causal_tower(self._network)
        self._table = _token_table(self._network, encoder.model)

    def tokens(self, sentences: Sequence[str]) -> Tensor:
        """Token ids on the CPU; see `TextTower.tokens`. (n, L)"""
        return self._encoder.tokens(sentences)

    @torch.no_grad()
    def look_up(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens; see `TextTower.look_up`. (n, L, W)"""
        found: Tensor = self._table(tokens.to(self.device))
        return found

    def encode(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """Raw text features; see `TextTower.encode`. (n, D)"""
        if self._causal is not None:
            return _run_parts(self._causal, embeddings, tokens)

        def put_in(_module: nn.Module, _given: object, found: Tensor) -> Tensor:
            return embeddings.to(found.dtype)

        hook = self._table.register_forward_hook(put_in)
        try:
            features: Tensor = self._network.encode_text(tokens)
        finally:
            hook.remove()
        return features

    def to(self, device: torch.device) -> EncoderTower:
        """The same tower, moved; see `TextTower.to`."""
        self._network.to(device)
        self.device = device
        return self

    def floats(self, length: int) -> int:
        """Numbers kept for a gradient; see `TextTower.floats`.

        A block keeps some 20 W numbers a token: inputs and outputs of two norms, queries, keys,
        values, the attended values, and twice 4 W around the activation; and its attention matrix.
        """
        width = self._table.embedding_dim
        modules = [m for m in self._text().modules() if isinstance(m, nn.Linear)]
        blocks = max(1, len(modules) // 3)  # of each: one out of the attention, two of the MLP
        heads = max(1, width // 64)
        return blocks * length * (20 * width + 2 * heads * length)

    def trim(self, tokens: Tensor) -> Tensor:
        """The places up to the longest sentence's end; see `TextTower.trim`. (n, L')"""
        if self._causal is None:
            return tokens
        return tokens[:, : int(_ends(self._causal, tokens).max()) + 1]

    def _text(self) -> nn.Module:
        text: nn.Module = getattr(self._network, "text", None) or self._network.transformer
        return text


def _causal_tower(network: Any) -> Any | None:
    """The module that has a text tower's parts, if it attends backwards and is read at the end."""
    tower = getattr(network, "text", network)  # a tower of its own, or CLIP's class, which is one
    known = all(hasattr(tower, part) for part in _PARTS)
    causal = known and getattr(tower, "attn_mask", None) is not None
    plain = causal and getattr(tower, "cls_emb", None) is None
    return tower if plain and _pooling(tower) in _AT_THE_END else None


def _pooling(tower: Any) -> str:
    """Where the tower is read; open_clip's two classes name it differently."""
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax")))


def _ends(tower: Any, tokens: Tensor) -> Tensor:
    """Place of the end of each sentence. (n,)"""
    if _pooling(tower) == "argmax":  # the end token has the highest id
        return tokens.argmax(dim=-1)
    end: int = getattr(tower, "text_eos_id", getattr(tower, "eos_id", -1))
    return tokens.eq(end).int().argmax(dim=-1)


def _run_parts(tower: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    """The tower's forward pass behind the look-up, on as many places as there are. (n, D)"""
    length = embeddings.shape[1]
    x = embeddings + tower.positional_embedding[:length]  # (n, L, W)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    rows = torch.arange(len(x), device=x.device)
    found: Tensor = tower.ln_final(x[rows, _ends(tower, tokens)])  # (n, W)
    projection = tower.text_projection
    if isinstance(projection, nn.Linear):
        found = projection(found)
    elif projection is not None:
        found = found @ projection
    return found


def _token_table(network: Any, model: str) -> nn.Embedding:
    """Where a text tower looks its tokens up."""
    text = getattr(network, "text", network)
    table = getattr(text, "token_embedding", None)
    if table is None and hasattr(getattr(text, "transformer", None), "get_input_embeddings"):
        table = text.transformer.get_input_embeddings()  # a text tower of Hugging Face
    if not isinstance(table, nn.Embedding):
        raise InputError(
            f"the text tower of '{model}' shows no token embedding to learn in; extract with "
            "another encoder, or take a method that needs none ('cafe methods')."
        )
    return table


def load_tower(
    cache: FeatureCache,
    model: str | None = None,
    pretrained: str | None = None,
    *,
    device: str = "auto",
) -> EncoderTower:
    """Load the text tower of the encoder that a cache was made with.

    Parameters
    ----------
    cache : FeatureCache
    model, pretrained : str, optional
        Where the encoder is, if it came from a folder or a file; None takes what the cache names.
    device : str
        "auto", "cpu", "cuda", "cuda:N".

    Raises
    ------
    InputError
        If the cache was imported: nobody knows its encoder.
    WeightsError
        If the encoder cannot be had.
    CacheMismatchError
        If it is another one than the cache's.
    """
    header = cache.header
    if not header.key.get("weights_sha256"):
        raise InputError(
            f"the features of '{header.dataset}' were imported, and no encoder is known to give "
            "the same, so there is no text tower to learn prompts in; extract the images with "
            "'cafe extract', or give cafe.fit a tower=EncoderTower(encoder)."
        )
    named = model or header.model, pretrained if model or pretrained else header.pretrained
    target = str(resolve_device(device))
    try:
        encoder = load_encoder(*named, device=target, precision="fp32")
    except (UnknownNameError, WeightsError) as error:
        if model or pretrained:
            raise
        raise WeightsError(
            f"the text tower of '{header.model}' with weights '{header.pretrained}', in which "
            f"prompts are learned, cannot be had: {_reason(error)}; if they lie in a folder or a "
            "file, name it with --encoder and --pretrained."
        ) from error
    _check(encoder, cache)
    return EncoderTower(encoder)


def _reason(error: Exception) -> str:
    """What is missing, without the advice, which speaks of other options."""
    return str(error).partition(";")[0].rstrip(".")


def _check(encoder: Encoder, cache: FeatureCache) -> None:
    """Refuse an encoder other than the cache's; how images are resized does not matter here."""
    given = {
        "weights_sha256": encoder.weights_sha256,
        "architecture_sha256": encoder.architecture_sha256,
    }
    different = differences(given, {part: cache.header.key.get(part) for part in given})
    if different:
        raise CacheMismatchError(
            f"'{encoder.model}' is not the encoder of this cache: {different[-1]}; give that of "
            f"the cache ('{cache.header.model}', weights '{cache.header.pretrained}') with "
            "--encoder and --pretrained."
        )
