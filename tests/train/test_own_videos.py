"""From a folder of videos to a student that is nearer to them than the model it began with, by the commands alone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from causvid import cli
from causvid.media import VideoWriter

PRESET = """
name = "mine"
extends = "test"
data = "set"
start = "{start}"
start_at = "teacher"
[train.teacher]
steps = 40
learning_rate = 5e-3
ema = 0.8
phases = [{{ frames = 4, batch = 8, until = 1.0 }}]
[train.ode]
steps = 40
learning_rate = 2e-2
ema = 0.8
lora = {{ rank = 8 }}
[train.dmd]
steps = 2
lora = {{ rank = 8 }}
"""


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert not end.value.code, captured.err
    return captured.out


@pytest.mark.slow
def test_a_student_of_own_videos_is_nearer_to_them(chain, tmp_path: Path, capsys, monkeypatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for n, (height, width, fps) in enumerate([(32, 48, 8), (50, 60, 12), (64, 40, 25), (36, 90, 30)] * 2):
        clip = np.full((2 * fps, height, width, 3), generator.integers(100, 200, 3), np.uint8)
        for t, frame in enumerate(clip):
            frame[:, : 1 + n + width * t // len(clip) // 2] = 40
        Path("clips").mkdir(exist_ok=True)
        with VideoWriter(Path(f"clips/{n}.mp4"), fps=fps, height=height, width=width) as writer:
            writer.write(clip)
    bundle = chain.folder / "bundle"
    options = ("--model", bundle, "--caption", "a red swan", "--duplicate", "-1", "--workers", "1", "--device", "cpu")
    assert command(capsys, "data", "prepare", "clips", "--out", "set", *options).startswith("set: 8 clips")
    Path("mine.toml").write_text(PRESET.format(start=bundle))
    command(capsys, "train", "all", "--preset", "mine.toml", "--out", "run", "--device", "cpu")

    def distance(model: Path) -> float:
        out = command(capsys, "evaluate", "domain", "--data", "set", "--model", model, "--clips", 8, "--device", "cpu")
        (number,) = re.findall(r"distance ([\d.]+)", out)
        return float(number)

    before, after = distance(bundle), distance(Path("run/bundle"))
    assert after < 0.7 * before, (before, after)
    made = json.loads(Path("run/bundle/causvid.json").read_text())["provenance"]
    assert made["data"] == "set"
