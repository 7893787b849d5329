"""Muon for matrices of one shape together, against torch's, which takes one after another."""

import torch

from causvid.train.muon import TOGETHER, Muon

SHAPES = ((8, 8), (24, 8), (8, 24), (5, 7), *((6, 4),) * (TOGETHER + 1))


def test_all_matrices_move_as_torch_moves_each() -> None:
    def parameters() -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]

    own, peers = parameters(), parameters()
    one = Muon(own, lr=1e-3, weight_decay=0.1)
    other = torch.optim.Muon(peers, lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for parameter, peer in zip(own[1:], peers[1:], strict=True):  # the first has no gradient
            parameter.grad = torch.randn(parameter.shape)
            peer.grad = parameter.grad.clone()
        one.step()
        other.step()
    for parameter, peer in zip(own, peers, strict=True):
        torch.testing.assert_close(parameter, peer)
    assert one.state_dict()["state"].keys() == other.state_dict()["state"].keys()
