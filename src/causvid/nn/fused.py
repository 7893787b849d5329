"""Layers that one kernel computes where there is one, without gradients on a CPU; elsewhere they are what they were."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from causvid.nn.rope import is_captured


def linear_gelu(linear: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer, then GELU in its form with tanh, `[..., inputs] -> [..., outputs]`.

    oneDNN applies it to the product while that is in the cache; alone, GELU takes as long as the product.
    """
    if type(linear) is nn.Linear and _can_fuse(x, linear.weight):
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, "gelu", [], "tanh")
        return fused
    return functional.gelu(linear(x), approximate="tanh")


def _can_fuse(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not is_captured()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
