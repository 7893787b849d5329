"""What runs on a CPU runs on CUDA, and makes the same there."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from causvid.pipeline import Pipeline
from causvid.preset import load_preset
from causvid.stream import Stream
from causvid.train import stages
from causvid.train.run import ORDER, Run
from causvid.worlds.storybook import FULL, render, sample_scene

pytestmark = pytest.mark.gpu
PROMPT, OTHER = "a red swan moving to the right over a lake", "a blue mammoth over the snow"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_pretrained(device="cuda", teacher=True)


def begin(pipeline: Pipeline, *, prompt: str = PROMPT, **options: Any) -> Stream:
    return pipeline.stream(prompt, seed=1, **options)


def take(stream: Stream, chunks: int) -> torch.Tensor:
    return torch.cat(list(islice(stream, chunks)))


def test_the_whole_recipe_runs_and_its_model_streams(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", device=torch.device("cuda"))
    assert stages.run("all", load_preset("test"), run)
    for stage in ORDER:
        metrics = tmp_path / "run" / stage / "metrics.jsonl"
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        assert rows and all(math.isfinite(value) for row in rows for value in row.values())
    trained = Pipeline.from_pretrained(tmp_path / "run" / "bundle", device="cuda")
    assert len(take(begin(trained, seconds=2), 99)) == round(2 * trained.fps)


def test_renders_are_those_of_the_cpu() -> None:
    scenes = [sample_scene(FULL, seed, split="train") for seed in range(8)]
    options = {"frames": 5, "height": 64, "width": 96, "fps": 12}
    there, here = render(scenes, device="cuda", **options), render(scenes, **options)
    assert there.device.type == "cuda"
    assert (there.cpu() - here).abs().mean() < 1 / 255


@pytest.fixture(scope="module")
def cpu() -> Pipeline:
    return Pipeline.from_pretrained(teacher=True)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_videos_are_those_of_the_cpu(pipeline: Pipeline, cpu: Pipeline, role: str) -> None:
    there, here = (
        (one.teach if role == "teacher" else one.generate_batch)([PROMPT, OTHER], seeds=[0, 1], seconds=2)
        for one in (pipeline, cpu)
    )
    assert there.device.type == "cpu"
    assert (there.int() - here.int()).abs().float().mean() < 2


def test_sessions_at_different_positions_are_one_batch(pipeline: Pipeline) -> None:
    late, early = begin(pipeline), begin(pipeline, prompt=OTHER)
    take(early, 5)
    alone = [take(one.fork(), 4) for one in (late, early)]
    sessions = [late.session, early.session]
    together = [pipeline._engine().advance(sessions) for _ in range(4)]
    for number, expected in enumerate(alone):
        frames = torch.cat([chunk for row in together if (chunk := row[number]) is not None])
        assert (frames.int() - expected.int()).abs().float().mean() < 1


def test_a_saved_session_moves_from_device_to_device(pipeline: Pipeline, cpu: Pipeline, tmp_path: Path) -> None:
    stream = begin(pipeline)
    take(stream, 3)
    stream.save(tmp_path / "it.safetensors")
    frames = take(stream, 3)
    assert torch.equal(take(pipeline.resume(tmp_path / "it.safetensors"), 3), frames)
    moved = take(cpu.resume(tmp_path / "it.safetensors"), 3)
    assert (moved.int() - frames.int()).abs().float().mean() < 2


@pytest.mark.parametrize("policy", ["window", "recompute"])
def test_a_stream_is_restored_and_forked_bit_for_bit(pipeline: Pipeline, policy: str) -> None:
    stream = begin(pipeline, policy=policy)
    take(stream, 4)
    state, fork = stream.snapshot(), stream.fork()

    def change(one: Stream) -> torch.Tensor:
        one.set_prompt(OTHER, "blend", chunks=2)
        return take(one, 6)

    changed = change(stream)
    assert torch.equal(change(fork), changed)
    stream.restore(state)
    assert torch.equal(change(stream), changed)
    stream.restore(state)
    assert not torch.equal(take(stream, 6), changed)


def test_memory_of_a_stream_is_flat(pipeline: Pipeline) -> None:
    stream = begin(pipeline)
    allocated = []
    for _ in range(3):
        take(stream, 20)
        allocated.append(torch.cuda.memory_allocated())
    assert allocated[0] == allocated[1] == allocated[2]
