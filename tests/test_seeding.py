"""A seed is lent and given back."""

import torch

from causvid.seeding import lend_seed


def test_a_lent_seed_decides_what_is_drawn_and_leaves_no_trace():
    def drawn(seed: int) -> torch.Tensor:
        with lend_seed(torch.Generator().manual_seed(seed)):
            return torch.rand(4)

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = drawn(0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(drawn(0), first) and not torch.equal(drawn(1), first)
