"""The one place that computes attention; faster backends go here.

Letters: B batch, Lq Lk query and key tokens, N heads, K head dim.
"""

import torch
from torch import Tensor
from torch.nn import functional

FEW_SCORES = 2**19
"""Query-key pairs of a head up to which their scores may lie in memory all at once."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Let every query see every key, or those that `mask` allows.

    `[B, Lq, N, K]`, `[B, Lk, N, K]` twice, mask bool `[B, 1, 1, Lk]` -> `[B, Lq, N, K]`.
    """
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    few = mask is None and q.shape[-2] * k.shape[-2] <= FEW_SCORES
    # SDPA's backward in bf16 takes half of a training pass on a CPU: plain products make the whole pass 1.5x as fast.
    if few and q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        return _products(q, k, v).transpose(1, 2)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention written out, softmax in fp32. `[B, N, L, K]` each."""
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    return torch.matmul(scores.softmax(-1, dtype=torch.float32).to(v.dtype), v)
