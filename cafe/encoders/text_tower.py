"""An encoder's text tower that takes token embeddings, for methods that learn prompts.

Most text towers are causal, and the feature is the output at the end token, so tokens after it
change nothing. This module runs the parts of such a tower on as many positions as the longest
sentence has (about 25 of 77 for a learned context). All other towers (CoCa, SigLIP, those of
Hugging Face) run as they are; a hook replaces the embeddings that they look up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import TEXT_TOWER, load_recorded_encoder, record_of_cache
from cafe.errors import InputError
from cafe.store import FeatureCache

_PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
_END_TOKEN_POOLING = ("argmax", "eos")


class EncoderTower:
    """The text tower of a cafe encoder.

    Parameters
    ----------
    encoder : Encoder
        In float32, because contexts are learned through it. Its network moves with the tower.

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
        return self._encoder.token_ids(sentences)

    @torch.no_grad()
    def look_up(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens; see `TextTower.look_up`. (n, L, W)"""
        embeddings: Tensor = self._table(tokens.to(self.device))
        return embeddings

    def encode(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """Raw text features; see `TextTower.encode`. (n, D)"""
        if self._causal is not None:
            return _run_parts(self._causal, embeddings, tokens)

        def replace_output(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return embeddings.to(output.dtype)

        hook = self._table.register_forward_hook(replace_output)
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

        A transformer block keeps about 20 W numbers per token: inputs and outputs of two norms,
        queries, keys, values, the attended values, and twice 4 W around the activation. It also
        keeps its attention matrix.
        """
        width = self._table.embedding_dim
        text: nn.Module = getattr(self._network, "text", None) or self._network.transformer
        linear = sum(isinstance(module, nn.Linear) for module in text.modules())
        blocks = max(1, linear // 3)  # a block has three: one after the attention, two in the MLP
        heads = max(1, width // 64)  # CLIP's heads are 64 wide
        return blocks * length * (20 * width + 2 * heads * length)

    def trim(self, tokens: Tensor) -> Tensor:
        """Token ids up to the end of the longest sentence; see `TextTower.trim`. (n, L')"""
        if self._causal is None:
            return tokens
        return tokens[:, : int(_ends(self._causal, tokens).max()) + 1]


def _causal_tower(network: Any) -> Any | None:
    """The module with a text tower's parts, if it is causal and its feature is the end token's."""
    tower = getattr(network, "text", network)  # CLIP's class is its own text tower
    known = all(hasattr(tower, part) for part in _PARTS)
    causal = known and getattr(tower, "attn_mask", None) is not None
    plain = causal and getattr(tower, "cls_emb", None) is None
    return tower if plain and _pooling(tower) in _END_TOKEN_POOLING else None


def _pooling(tower: Any) -> str:
    """Which position the feature is read from; open_clip's two classes name it differently."""
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax")))


def _ends(tower: Any, tokens: Tensor) -> Tensor:
    """Position of each sentence's end token. (n,)"""
    if _pooling(tower) == "argmax":  # the end token has the highest id
        return tokens.argmax(dim=-1)
    end: int = getattr(tower, "text_eos_id", getattr(tower, "eos_id", -1))
    return tokens.eq(end).int().argmax(dim=-1)


def _run_parts(tower: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    """The tower's forward pass after the look-up, on as many positions as there are. (n, D)"""
    length = embeddings.shape[1]
    x = embeddings + tower.positional_embedding[:length]  # (n, L, W)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    rows = torch.arange(len(x), device=x.device)
    features: Tensor = tower.ln_final(x[rows, _ends(tower, tokens)])  # (n, W)
    projection = tower.text_projection
    if isinstance(projection, nn.Linear):
        return projection(features)  # type: ignore[no-any-return]
    return features if projection is None else features @ projection  # (n, D)


def _token_table(network: Any, model: str) -> nn.Embedding:
    """The embedding table of a text tower."""
    text = getattr(network, "text", network)
    table = getattr(text, "token_embedding", None)
    if table is None and hasattr(getattr(text, "transformer", None), "get_input_embeddings"):
        table = text.transformer.get_input_embeddings()  # a text tower of Hugging Face
    if not isinstance(table, nn.Embedding):
        raise InputError(
            f"the text tower of '{model}' has no token embedding that cafe can find; extract with "
            "another encoder, or use a method that learns no prompts ('cafe methods')."
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
        Where the encoder is, if it came from a folder or a file. None takes the cache's names.
    device : str
        "auto", "cpu", "cuda", "cuda:N".

    Raises
    ------
    InputError
        If the cache was imported: its encoder is not known.
    WeightsError
        If the encoder cannot be loaded.
    CacheMismatchError
        If it is another one than the cache's. How it resizes images does not matter here.
    """
    alternative = "give cafe.fit a tower=EncoderTower(encoder)"
    encoder = load_recorded_encoder(
        record_of_cache(cache, alternative),
        model,
        pretrained,
        device=device,
        precision="fp32",
        parts=TEXT_TOWER,
    )
    return EncoderTower(encoder)
