"""Where a transformer looks: its weights, made plainly beside the fast passes that never hold them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.nn.attention import by_heads
from dreamlab.nn.transformer import Transformer


@torch.no_grad()
def attention_weights(
    transformer: Transformer, x: Float[Tensor, "B T D"]
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B layers heads T T"]]:
    """``transformer(x)`` as it computes when nothing is dropped, and each head's weights: queries, then keys."""
    future = torch.full((x.shape[1],) * 2, -math.inf, device=x.device).triu(1)
    found: list[Tensor] = []

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = by_heads(qkv)
        weight = (q @ k.mT * q.shape[-1] ** -0.5 + future).softmax(-1)  # (B, heads, T, T)
        found.append(weight)
        return (weight @ v).transpose(1, 2)

    for layer in transformer.layers:
        x = layer(x, attend)
    return transformer.norm(x), torch.stack(found, 1)
