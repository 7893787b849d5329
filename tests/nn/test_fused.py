"""A fused layer is the layers it replaces, in every precision and size, and steps aside where a gradient is wanted."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from causvid.nn.fused import linear_gelu
from causvid.nn.rope import rotate, rotation


@pytest.mark.parametrize("shape", [(1, 72, 24), (2, 3, 5, 24), (1, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_fused_linear_layer_is_the_layer_and_gelu(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    plain = functional.gelu(linear(x), approximate="tanh")
    with torch.no_grad():
        torch.testing.assert_close(linear_gelu(linear, x), plain.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(linear_gelu(linear, x), plain), "with a gradient to keep"


def test_layers_that_are_not_linear_run_as_they_are() -> None:
    class Twice(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layer, x = Twice(6, 4), torch.randn(3, 6)
    with torch.no_grad():
        assert torch.equal(linear_gelu(layer, x), functional.gelu(2 * nn.Linear.forward(layer, x), approximate="tanh"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_by_complex_numbers_is_that_of_pairs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 24, 3, 20, generator=generator).to(dtype).requires_grad_()
    by = rotation(torch.tensor([[3.0, 4.0], [100.0, 101.0]], dtype=torch.float64), 3, 4, 20)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = by.cos[..., None, :], by.sin[..., None, :]
    pairs = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(dtype)
    turned = rotate(x, by)
    torch.testing.assert_close(turned, pairs, rtol=1e-6 if dtype == torch.float32 else 8e-3, atol=1e-6)
    weight = torch.randn(x.shape, generator=generator)
    grads = [torch.autograd.grad((y.float() * weight).sum(), x)[0] for y in (turned, pairs)]
    torch.testing.assert_close(*grads)
