"""What runs faster gives the same: bf16 decoding, compiled passes, and the plain path where a library is missing."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import small_pipeline

from causvid.loading.accelerate import accelerate, multiplies_bf16
from causvid.loading.graphs import Graphs
from causvid.loading.inductor import InductorPasses
from causvid.loading.spec import Acceleration
from causvid.models.transformer import Transformer
from causvid.pipeline import Pipeline

PROMPT = "a red swan"


# Compiling takes half a minute. In one process with the rest of the tests OpenVINO has crashed torch's training.
@pytest.fixture(params=[pytest.param(how, marks=pytest.mark.slow) for how in ("inductor", "openvino")])
def how(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Acceleration:
    how: Acceleration = request.param
    if how == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setenv("CAUSVID_CACHE", str(tmp_path / "cache"))
    return how


def faster(how: Acceleration, pipeline: Pipeline) -> Pipeline:
    """Accelerate the passes alone: random decoders as these saturate, where bf16 shows."""
    accelerate(how, pipeline.bundle.transformer, small_pipeline().bundle.autoencoder)
    return pipeline


def latents(pipeline: Pipeline, chunks: int = 12, **options: Any) -> torch.Tensor:
    stream = pipeline.stream(PROMPT, seed=1, **options)
    made = []
    for _ in range(chunks):
        next(stream)
        assert stream.latent is not None
        made.append(stream.latent)
    return torch.cat(made, dim=1)


def test_compiled_passes_make_the_same_latents_and_are_kept_for_the_next_start(
    how: Acceleration, small: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = faster(how, small_pipeline())
    first = latents(fast)
    torch.testing.assert_close(first, latents(small), rtol=1e-4, atol=1e-4)
    passes: Any = fast.bundle.transformer.accelerated
    assert len(passes._graphs._open) == 1, "chunks with a full window are of one size"

    made: list[int] = []
    write = Graphs._make  # type: ignore[misc]
    monkeypatch.setattr(Graphs, "_make", lambda *given: made.append(1) or write(*given))
    again = faster(how, small_pipeline())
    assert torch.equal(latents(again), first)
    assert not made
    (kept,) = (tmp_path / "cache").iterdir()
    for file in kept.iterdir():
        file.write_bytes(b"<net")
    assert torch.equal(latents(faster(how, small_pipeline())), first)
    assert made == [1], "a damaged one is made again"
    with torch.no_grad():
        again.bundle.transformer.head.bias.add_(1)
    latents(faster(how, again))
    assert made == [1, 1], "other weights are another graph"


def test_compiled_passes_serve_changes_of_prompt_and_leave_batches_alone(how: Acceleration, small: Pipeline) -> None:
    fast = faster(how, small_pipeline())
    streams = [pipeline.stream(PROMPT, seed=2) for pipeline in (fast, small)]
    for number in range(8):
        if number == 5:
            for stream in streams:
                stream.set_prompt("a blue mammoth")
        frames = [next(stream).float() for stream in streams]
        assert (frames[0] - frames[1]).abs().max() <= 2
    several = [pipeline.generate_batch([PROMPT, PROMPT], seeds=[1, 2], seconds=2) for pipeline in (fast, small)]
    for ours, theirs in zip(*several, strict=True):
        assert (ours.float() - theirs.float()).abs().max() <= 2


@torch.no_grad()
def test_a_compiled_pass_is_the_plain_one_and_writes_the_same_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAUSVID_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(1)
    config = small_pipeline().bundle.transformer.config.model_copy(update={"layers": 1, "predicts": "x0"})
    model = Transformer(config).eval()
    for p in model.parameters():
        p.normal_(std=0.2)
    cache = model.new_cache(batch=1, height=4, width=6, window=2, sink=0, chunk=2)
    x, text = torch.randn(1, 2, config.in_channels, 4, 6), model.encode_text(torch.randn(1, 3, config.text_dim))
    for _ in range(2):
        model(x, torch.zeros(1, 2), text, cache=cache, commit=True)
    found = []
    for run in (None, InductorPasses(model)):
        model.accelerated = run
        found.append((model(x, torch.full((1, 2), 0.9), text, cache=cache), cache.room(2).keys.clone()))
        cache.keys[:, :, -1] = 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_where_nothing_can_be_compiled_one_line_says_so_and_the_plain_path_runs(
    small: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch._inductor import config

    monkeypatch.setenv("CAUSVID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    assert torch.equal(latents(faster("inductor", small_pipeline())), latents(small))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[1].startswith("note: torch cannot compile here") and "compiler" in said[1], said


def test_without_its_library_one_line_says_so_and_the_plain_path_runs(
    small: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "causvid.loading.openvino", raising=False)
    pipeline = small_pipeline()
    accelerate("openvino", pipeline.bundle.transformer, pipeline.bundle.autoencoder)
    said = capsys.readouterr().err
    assert said.startswith("note: openvino is not installed") and said.count("\n") == 1
    assert torch.equal(latents(pipeline), latents(small))


def test_decoding_in_bf16_is_that_in_fp32_but_for_what_no_eye_sees() -> None:
    plain, fast = (Pipeline.from_pretrained(accelerate=how) for how in ("none", "auto"))
    streams = [pipeline.stream("a red fish over a lake", seed=3) for pipeline in (plain, fast)]
    pairs = [[next(stream).float() for stream in streams] for _ in range(3)]
    ours, theirs = (torch.cat(frames) for frames in zip(*pairs, strict=True))
    if multiplies_bf16():
        noise = (ours - theirs).square().mean() / 255**2
        assert 0 < noise < 10**-4.5, "45 dB"
    else:
        assert torch.equal(ours, theirs)
    assert plain.fingerprint == fast.fingerprint


def test_a_session_goes_on_in_the_other_precision(tmp_path: Path) -> None:
    pipelines = [Pipeline.from_pretrained(accelerate=how) for how in ("none", "auto")]
    for made, resumed in (pipelines, pipelines[::-1]):
        stream = made.stream("a red fish over a lake", seed=3)
        next(stream), next(stream)
        stream.save(tmp_path / "session")
        after = resumed.resume(tmp_path / "session")
        assert (next(stream).float() - next(after).float()).abs().mean() < 1
