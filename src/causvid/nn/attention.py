"""The one place that computes attention; faster backends go here.

Letters: B batch, Lq Lk query and key tokens, N heads, K head dim.
"""

from torch import Tensor
from torch.nn import functional


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Let every query see every key. `[B, Lq, N, K]`, `[B, Lk, N, K]` twice -> `[B, Lq, N, K]`."""
    out = functional.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2)
