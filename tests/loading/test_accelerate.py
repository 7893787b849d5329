"""What runs faster gives the same: bf16 decoding, passes by OpenVINO, and the plain path where a library is missing."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import small_pipeline

from causvid.loading.accelerate import accelerate, multiplies_bf16
from causvid.pipeline import Pipeline

# In one process with the rest of the tests OpenVINO has crashed torch's training; it is not installed for them.
needs_openvino = pytest.mark.slow
PROMPT = "a red swan"


@pytest.fixture
def fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    pytest.importorskip("openvino")
    monkeypatch.setenv("CAUSVID_CACHE", str(tmp_path / "cache"))
    return by_openvino(small_pipeline())


def by_openvino(pipeline: Pipeline) -> Pipeline:
    """Accelerate the passes alone: random decoders as these saturate, where bf16 shows."""
    accelerate("openvino", pipeline.bundle.transformer, small_pipeline().bundle.autoencoder)
    return pipeline


def latents(pipeline: Pipeline, chunks: int = 12, **options: Any) -> torch.Tensor:
    stream = pipeline.stream(PROMPT, seed=1, **options)
    made = []
    for _ in range(chunks):
        next(stream)
        assert stream.latent is not None
        made.append(stream.latent)
    return torch.cat(made, dim=1)


@needs_openvino
def test_openvino_makes_the_same_latents_with_one_graph_for_ever(fast: Pipeline, small: Pipeline) -> None:
    torch.testing.assert_close(latents(fast), latents(small), rtol=1e-4, atol=1e-4)
    passes: Any = fast.bundle.transformer.accelerated
    assert len(passes._requests) == 1, "chunks with a full window are of one size"


@needs_openvino
def test_openvino_serves_changes_of_prompt_and_leaves_batches_alone(fast: Pipeline, small: Pipeline) -> None:
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


@needs_openvino
def test_graphs_are_kept_for_the_next_start_and_damaged_ones_made_again(
    fast: Pipeline, small: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = latents(fast)
    (graph,) = (tmp_path / "cache").glob("*/pass.xml")
    converted: list[Any] = []
    openvino = pytest.importorskip("openvino")
    convert = openvino.convert_model
    monkeypatch.setattr(openvino, "convert_model", lambda *a, **o: converted.append(1) or convert(*a, **o))
    for damaged in (False, True):
        if damaged:
            graph.write_text("<net")
        again = by_openvino(small_pipeline())
        assert torch.equal(latents(again), first)
        assert bool(converted) == damaged
    assert graph.read_text() != "<net"
    with torch.no_grad():
        again.bundle.transformer.head.bias.add_(1)
    latents(by_openvino(again))
    assert len(list((tmp_path / "cache").glob("*/pass.xml"))) == 2, "other weights are another graph"


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
