"""How much memory a computation takes, found by running it on tensors that have sizes but no contents.

On the `meta` device every operation makes tensors of the right shape and type without storage. Counting their bytes
while they live gives the peak of the real computation, whatever the code does, for models of any size.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def weight_bytes(module: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Count the bytes of a module's parameters and buffers, in the types they have or in another."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(t.numel() * (t.element_size() if dtype is None else dtype.itemsize) for t in tensors)


def peak_bytes(function: Callable[[], Any]) -> int:
    """Return the most bytes of tensors made by `function` that are alive at one time, its result's included.

    Tensors that existed before are not counted, nor is what an operation allocates internally.
    """
    tally = _Tally()
    with torch.inference_mode(), _FlashAttention(), tally:
        function()
    return tally.peak


class _Tally(TorchDispatchMode):
    """Count the bytes of storages made while it is active, until they are freed."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._count((args, kwargs), new=False)
        out = func(*args, **(kwargs or {}))
        self._count(out, new=True)
        return out

    def _count(self, values: object, *, new: bool) -> None:
        for value in tree_leaves(values):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            key, size = id(storage), storage.nbytes() if new else 0
            if key in self._known:
                continue

            def forget(_: Any, key: int = key, size: int = size) -> None:
                del self._known[key]
                self.live -= size

            self._known[key] = weakref.ref(storage, forget)
            self.live += size
            self.peak = max(self.peak, self.live)


class _FlashAttention(TorchFunctionMode):
    """Let attention allocate its result alone, as on real devices; on meta it would allocate all scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
