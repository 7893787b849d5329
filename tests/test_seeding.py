"""Generators of steps are independent of each other, and a lent seed leaves no trace."""

import itertools

import torch

from causvid.seeding import lend_seed, step_generator


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


def test_every_seed_stage_step_and_part_has_its_randomness():
    def first(seed: int, stage: str, step: int, part: int) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=step_generator(seed, stage, step, part=part)).tolist())

    keys = list(itertools.product((0, 1, 2**31 - 1), ("ode", "dmd"), (0, 1, 11, 111), (0, 1, 11)))
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(1, "ode", 7, 0) == first(1, "ode", 7, 0)
