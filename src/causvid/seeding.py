"""A seed lent to code that draws from the global generator only."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lend_seed(generator: torch.Generator) -> Iterator[None]:
    """Seed the CPU's global generator from an explicit one, and put its state back at the end of the `with` block.

    For starting weights that torch or transformers draw themselves.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
