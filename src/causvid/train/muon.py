"""Muon, for matrices of one shape together: one after another, as torch has it, they take four times as long on a CPU.

Source: Jordan et al. (2024); Liu et al. (2502.16982, equation 4), so that AdamW's learning rate serves.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

TOGETHER = 16
"""Matrices of a shape that are stacked: more do not multiply any faster."""


class Muon(torch.optim.Muon):
    """Torch's Muon, with its settings and its state, at the rate of AdamW.

    dtype: of the products; bf16 serves, but takes three times as long where the machine has no instructions for it.
    """

    def __init__(self, params: Iterable[Tensor], *, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every matrix that has a gradient, after calling the closure, if there is one; return what that did."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            rate, keeps = group["lr"], 1 - group["lr"] * group["weight_decay"]
            for stack in _stacks([parameter for parameter in group["params"] if parameter.grad is not None]):
                moved = torch.stack([_wide(self._direction(parameter, group["momentum"])) for parameter in stack])
                turned = _orthogonal(moved, group["ns_coefficients"], group["ns_steps"], group["eps"])
                for parameter, own in zip(stack, turned, strict=True):
                    _wide(parameter).mul_(keeps).add_(own.to(parameter.dtype), alpha=-0.2 * rate * own.shape[1] ** 0.5)
        return loss

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """Return the gradient with Nesterov's momentum, in the precision of the products."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum).to(self.dtype)


def _wide(matrix: Tensor) -> Tensor:
    """Return a view that is no higher than wide."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _shape(matrix: Tensor) -> tuple[int, ...]:
    return tuple(_wide(matrix).shape)


def _stacks(matrices: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group matrices that are alike as wide ones, a few at a time."""
    for _, group in groupby(sorted(matrices, key=_shape), key=_shape):
        alike = list(group)
        yield from (alike[begin : begin + TOGETHER] for begin in range(0, len(alike), TOGETHER))


def _orthogonal(x: Tensor, coefficients: Sequence[float], steps: int, eps: float) -> Tensor:
    """Bring the singular values of wide matrices `[n, rows, columns]` close to 1, by Newton and Schulz's iteration."""
    a, b, c = coefficients
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
