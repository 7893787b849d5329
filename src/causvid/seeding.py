"""Randomness by name: one generator for every step of every stage, and a seed for code that takes no generator."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def step_generator(
    seed: int, stage: str, step: int, device: torch.device | str = "cpu", *, part: int = 0
) -> torch.Generator:
    """Return the generator of one part of one step.

    Streams of different stages, steps, parts and kinds of device are unrelated, and each can be drawn again: what was
    interrupted and resumes draws what an unbroken run draws. A part is a micro-batch.
    """
    # Within 32 bits, since a generator on the CPU ignores all others.
    return torch.Generator(device).manual_seed(zlib.crc32(f"{stage}/{step}/{part}".encode(), seed))


@contextmanager
def lend_seed(generator: torch.Generator) -> Iterator[None]:
    """Seed the CPU's global generator from an explicit one, and restore its state at the end of the `with` block.

    For starting weights that torch draws itself.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def without_contents() -> Iterator[None]:
    """Make modules on the meta device, whose weights take no memory, and draw no starting weights for them."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leave tensors as they are where they would be drawn: on the meta device, that imports torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
