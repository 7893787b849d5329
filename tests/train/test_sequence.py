"""Processes that share a clip: what one exchanges with itself, and what cannot be shared."""

import pytest
import torch
from torch import Tensor

from causvid import cli
from causvid.engine.rollout import rollout
from causvid.models.transformer import Transformer
from causvid.preset import load_preset
from causvid.train.distributed import Ranks, recompute_blocks
from causvid.train.sequence import Part, part_of, split_tokens
from causvid.train.stepwise import Stepwise

ALONE = Part(0, 1, exchange=lambda x: x, gather=lambda x: x)


def model_of(layers: int = 2) -> Transformer:
    model = Transformer(load_preset("test").transformer.model_copy(update={"layers": layers}))
    model.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


def gradients(model: Transformer, *, stepwise: bool = False) -> list[Tensor]:
    """Return the gradients of a rollout that outlives its window."""
    text = model.encode_text(torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2)))
    apart = Stepwise()
    chunks = rollout(
        model,
        apart.text(text) if stepwise else text,
        model.new_cache(batch=2, height=4, width=6, window=3, sink=1),
        chunks=(1, 3, 3, 2),
        shape=(2, 16, 4, 6),
        sigmas=(1.0, 0.5),
        generator=torch.Generator().manual_seed(3),
        grad_step=1,
    )
    x0 = apart.join(chunks) if stepwise else torch.cat(list(chunks), dim=1)
    (x0.square() * torch.linspace(-1, 1, x0.numel()).view_as(x0)).sum().backward()
    apart.finish()
    found = [p.grad for p in model.parameters()]
    assert all(grad is not None for grad in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stepwise", [False, True])
@pytest.mark.parametrize("part", [None, ALONE])
def test_a_rollout_has_its_gradients_however_it_is_differentiated(
    recompute: bool, stepwise: bool, part: Part | None
) -> None:
    expected, model = gradients(model_of()), model_of()
    split_tokens(model, part, tokens=6)
    if recompute:
        recompute_blocks(model)
    for ours, theirs in zip(gradients(model, stepwise=stepwise), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_what_cannot_be_shared_is_refused_in_a_line() -> None:
    def parts(count: int) -> Part:
        return Part(0, count, exchange=lambda x: x, gather=lambda x: x)

    with pytest.raises(ValueError, match="sequence_parallel=3 does not divide the 2 heads of the transformer"):
        split_tokens(model_of(), parts(3), tokens=6)
    with pytest.raises(ValueError, match="sequence_parallel=2 does not divide the 5 tokens of a frame"):
        split_tokens(model_of(), parts(2), tokens=5)
    with pytest.raises(ValueError, match="sequence_parallel=2 does not go with lora"):
        part_of(Ranks(0, 2, together=2), sharded=False)
    with pytest.raises(ValueError, match="sequence_parallel=2 does not divide 1 processes"):
        Ranks(together=2)


def test_neighbours_take_the_same_micro_batches() -> None:
    shares = [list(Ranks(rank, 4, together=2).share(4)) for rank in range(4)]
    assert shares == [[0, 2], [0, 2], [1, 3], [1, 3]]
    with pytest.raises(ValueError, match="3 micro-batches cannot be shared by 2 x 2 processes"):
        Ranks(0, 4, together=2).share(3)


def test_one_process_refuses_to_share_in_a_line(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    for more, line in (
        ([], "sequence_parallel=2 does not divide 1 processes"),
        (["--compile"], "--compile does not go with --sequence-parallel 2"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(
                ["train", "ode", "--preset", "test", "--out", str(tmp_path / "run"), "--sequence-parallel", "2", *more]
            )
        assert caught.value.code == 2 and line in capsys.readouterr().err
