"""What is counted without contents is what the same computation takes with them."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional

from causvid.config import TransformerConfig
from causvid.engine.memory import describe_machine, peak_bytes, weight_bytes
from causvid.models.transformer import Transformer
from causvid.nn import fused

MIB = 2**20


def test_what_lives_at_one_time_is_counted_and_what_is_given_back_is_not() -> None:
    def compute() -> torch.Tensor:
        a = torch.empty(MIB, dtype=torch.uint8, device="meta")
        b = a[: MIB // 2].view(2, -1)  # a view takes nothing
        c = torch.empty(2 * MIB, dtype=torch.uint8, device="meta")
        del c
        return torch.cat((a, b.flatten()))

    assert peak_bytes(compute) == 3 * MIB


def test_what_was_there_before_is_not_counted() -> None:
    weight = torch.empty(512, 512, device="meta")
    assert peak_bytes(lambda: weight.t().contiguous()) == MIB
    assert peak_bytes(lambda: weight.t().add_(1)) == 0


def test_attention_takes_its_result_alone() -> None:
    q = torch.empty(1, 2, 4096, 8, device="meta")
    assert peak_bytes(lambda: functional.scaled_dot_product_attention(q, q, q)) == q.nbytes


@pytest.mark.parametrize(
    ("dtype", "ffn_dim", "rows", "columns", "chunk", "past"),
    [
        (torch.float32, 160, 6, 10, 1, 2),
        (torch.float32, 160, 10, 14, 3, 5),
        (torch.bfloat16, 640, 10, 14, 3, 5),
        (torch.bfloat16, 640, 14, 18, 2, 3),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_a_pass_without_contents_takes_what_a_real_one_does(
    dtype: torch.dtype, ffn_dim: int, rows: int, columns: int, chunk: int, past: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if dtype == torch.bfloat16 and has.get("avx512_bw") and not has.get("avx512_bf16"):
        pytest.skip("oneDNN multiplies bf16 by way of copies in fp32 here")
    monkeypatch.setattr(fused, "_can_fuse", lambda *_: False)  # a plan is for machines without fused layers, too
    config = TransformerConfig(dim=64, heads=2, layers=2, ffn_dim=ffn_dim, text_dim=8)

    def pass_on(device: str) -> Callable[[], Any]:
        with torch.device(device):
            model = Transformer(config).to(dtype)
            latent, levels = torch.empty(1, chunk, 16, rows, columns), torch.ones(1, chunk)
            with torch.inference_mode():
                text = model.encode_text(torch.empty(1, 4, 8, dtype=dtype))
        cache = model.new_cache(batch=1, height=rows, width=columns, window=past - 1, sink=1, chunk=chunk)
        for _ in range(past + 1):
            cache.commit(1)
        cache.rotation(chunk, rows // 2, columns // 2)  # the first pass of a chunk computes it for all
        return lambda: model(latent, levels, text, cache=cache)

    assert peak_bytes(pass_on("meta")) == pytest.approx(allocated_peak(pass_on("cpu")), rel=0.02)


def test_weights_are_counted_in_any_precision() -> None:
    model = torch.nn.Linear(3, 5, device="meta")
    assert (weight_bytes(model), weight_bytes(model, torch.float16)) == (80, 40)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Attention on a CPU keeps a scratch for every thread, which weighs only beside sizes as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def allocated_peak(compute: Callable[[], Any]) -> int:
    """Return the peak of what torch's profiler sees allocated."""
    with torch.inference_mode():
        compute()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            compute()
    live = peak = 0
    events = (event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def test_the_machine_names_its_gpu_where_one_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    assert describe_machine("cuda:1") == f"Card 1; {describe_machine()}"
    assert describe_machine("cpu") == describe_machine()


FREED = """
import sys
import torch
from causvid.engine.memory import keep_freed_blocks, map_large_blocks

def resident_mib():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) >> 10

for how in sys.argv[1:]:
    {"keep": keep_freed_blocks, "map": map_large_blocks}[how]()
before = resident_mib()
large = [torch.ones(2**23, dtype=torch.uint8) for _ in range(24)]
large.clear()
print(resident_mib() - before)
"""

# A heap that takes blocks of that size, as glibc's comes to, and never shrinks; and one that takes none of them.
HEAP = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


def stays_resident(how: Sequence[str], malloc: Mapping[str, str]) -> int:
    """Return how many of 192 MiB stay resident after they are freed."""
    run = [sys.executable, "-c", FREED, *how]
    return int(subprocess.run(run, env={**os.environ, **malloc}, capture_output=True, text=True, check=True).stdout)


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps freed blocks")


@glibc
def test_mapped_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    # As after training a small model, too.
    assert stays_resident(["keep", "map"], HEAP) < 16 < 96 < stays_resident([], HEAP)


@glibc
def test_kept_blocks_stay_when_they_are_freed() -> None:
    assert stays_resident([], MAPPED) < 16 < 96 < stays_resident(["keep"], MAPPED)
