"""Attention is the same whichever way it is computed."""

import pytest
import torch
from torch.nn import functional

from causvid.nn import attention


@pytest.mark.parametrize(("queries", "keys"), [(15, 15), (6, 24)])
def test_bf16_attention_with_a_gradient_is_that_of_fp32_up_to_rounding(queries: int, keys: int) -> None:
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, length, 3, 16, generator=generator).requires_grad_() for length in (queries, keys, keys)]
    rough = [x.detach().bfloat16().requires_grad_() for x in exact]
    a = functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in exact)).transpose(1, 2)
    b = attention.attend(*rough)
    assert b.dtype == torch.bfloat16 and b.shape == a.shape
    a.square().sum().backward()
    b.float().square().sum().backward()
    for x, y in ((a, b), *((one.grad, other.grad) for one, other in zip(exact, rough, strict=True))):
        assert x is not None and y is not None
        assert float((x - y.float()).detach().norm() / x.detach().norm()) < 0.02


def test_scores_are_not_laid_out_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "FEW_SCORES", 100)
    monkeypatch.setattr(attention, "_products", None)
    x = torch.randn(1, 11, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    assert attention.attend(x, x, x).shape == x.shape
    with pytest.raises(TypeError):
        attention.attend(x[:, :10], x[:, :10], x[:, :10])
