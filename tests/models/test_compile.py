"""Compiled or sharded, the transformer is the plain one; compiled, one graph serves every chunk of a full window."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from causvid.config import TransformerConfig
from causvid.engine.rollout import rollout
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.visibility import Visibility

CONFIG = TransformerConfig(dim=16, heads=2, layers=3, ffn_dim=24, text_dim=6, in_channels=4, out_channels=4)
HEIGHT, WIDTH = 4, 6
ROOT = Path(__file__).parents[2]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def new_model() -> Transformer:
    model = Transformer(CONFIG)
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.copy_(noise(*p.shape, seed=number) * 0.2)
    return model


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: Transformer, backend: Callable[..., object] | str) -> Transformer:
    for block in model.blocks:
        block.compile(backend=backend, dynamic=False)
    return model


def both(backend: str) -> tuple[Transformer, Transformer]:
    return new_model(), compiled(new_model(), backend)


@torch.inference_mode()
def generate(model: Transformer, *, chunks: int, batch: int = 1, window: int = 4, sink: int = 1) -> Iterator[Tensor]:
    text = model.encode_text(noise(batch, 3, 6, seed=1))
    cache = model.new_cache(batch=batch, height=HEIGHT, width=WIDTH, window=window, sink=sink, chunk=2)
    yield from rollout(
        model,
        text,
        cache,
        chunks=(1, *[2] * (chunks - 1)),
        shape=(batch, 4, HEIGHT, WIDTH),
        sigmas=(1.0, 0.6),
        generator=torch.Generator().manual_seed(7),
    )


def test_one_graph_serves_ten_chunks_of_a_full_window() -> None:
    counter = CompileCounterWithBackend("eager")
    graphs = [counter.frame_count for _ in generate(compiled(new_model(), counter), chunks=14)]
    full = graphs[3]  # seven frames are made: the window is full, and a chunk was denoised and committed there
    assert graphs[0] >= 1 and graphs[4:] == [full] * 10
    assert full <= 4, "one graph for each number of filled slots, which all blocks share"


def test_a_compiled_transformer_is_the_plain_one() -> None:
    plain, fast = (torch.cat(list(generate(m, chunks=6, batch=2)), dim=1) for m in both("aot_eager"))
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_compiled_transformer_are_those_of_the_plain_one() -> None:
    plain, fast = both("aot_eager")
    for ours, theirs in zip(passes(fast), passes(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def passes(model: Transformer) -> list[Tensor]:
    """Run a masked pass with its backward, then a cached one behind a commit, as training does."""
    text = model.encode_text(noise(2, 3, 6, seed=1))
    x, sigma = noise(2, 5, 4, HEIGHT, WIDTH, seed=2), torch.linspace(0.1, 1, 10).view(2, 5)
    masked = model(x, sigma, text, visibility=Visibility(first=1, chunk=2))
    with torch.no_grad():
        cache = model.new_cache(batch=2, height=HEIGHT, width=WIDTH, window=3, sink=1, chunk=2)
        model(x[:, :3], torch.zeros(2, 3), detached(text), cache=cache, commit=True)
    cached = model(x[:, 3:], sigma[:, 3:], text, cache=cache)
    (masked.square().mean() + cached.square().mean()).backward()
    return [masked.detach(), cached.detach()]


def detached(text: TextKeys) -> TextKeys:
    return TextKeys(tuple(k.detach() for k in text.keys), tuple(v.detach() for v in text.values))


def shard(rank: int, folder: str) -> None:
    """Be one of two processes: shard the model, run it, and write what came of it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = new_model()
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
        register_fsdp_forward_method(block, "encode_text")
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "encode_text")
    assert all(isinstance(p, DTensor) for p in model.parameters())
    velocities = passes(model)
    grads = {name: cast(DTensor, p.grad).full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    torch.save((velocities, grads), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_transformer_sharded_over_two_processes_is_the_plain_one(tmp_path: Path) -> None:
    call = "import sys; from tests.models.test_compile import shard; shard(int(sys.argv[1]), sys.argv[2])"
    ranks = [
        subprocess.Popen([sys.executable, "-c", call, str(rank), str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate()
        assert rank.returncode == 0, errors.decode()
    plain = new_model()
    expected = passes(plain)
    for rank in range(2):
        velocities, grads = torch.load(tmp_path / f"{rank}.pt")
        for ours, theirs in zip(velocities, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert set(grads) == {name for name, _ in plain.named_parameters()}
        for name, p in plain.named_parameters():
            torch.testing.assert_close(grads[name], p.grad, rtol=1e-5, atol=1e-5)
