"""Two processes train what one trains, and go on where they were killed, on as many processes or on fewer.

Adam divides a gradient by its size, and makes anything of one that is zero but for rounding. So it has an epsilon here
that is above rounding: what two ways of summing differ by is then as small in the weights as in the gradients.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from causvid.preset import Preset
from causvid.train import distributed, loop, objective, stages
from causvid.train.run import Run

from .conftest import RESULTS, Chain, make_small

ROOT = Path(__file__).parents[2]
EARLIER = {"teacher": ("teacher", "decoder", "pairs", "ode", "dmd"), "ode": ("ode", "dmd"), "dmd": ("dmd",)}
Change = Callable[..., Preset]


def smooth(patch: pytest.MonkeyPatch) -> None:
    """Let Adam be a smooth function of gradients."""
    exact = objective.adamw

    def adamw(*arguments: Any) -> torch.optim.AdamW:
        optimizer = exact(*arguments)
        for group in optimizer.param_groups:
            group["eps"] = 1e-2
        return optimizer

    patch.setattr(objective, "adamw", adamw)


def work(folder: str, stage: str, options: str) -> None:
    """Be one of the processes that train a stage; `die` says which of them ends without a word, and at what step."""
    torch.set_num_threads(1)
    patch, chosen = pytest.MonkeyPatch(), json.loads(options)
    make_small(patch)
    smooth(patch)
    die = chosen.pop("die", None)
    take_step = loop.take_step

    def step(stage: loop.Stage, run: Run, n: int) -> Any:
        if die == [run.ranks.rank, n]:
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(stage, run, n)

    patch.setattr(loop, "take_step", step)
    preset = pickle.loads((Path(folder) / "preset.pickle").read_bytes())
    with distributed.processes(torch.device("cpu")) as (ranks, device):
        stages.run(stage, preset, Run(Path(folder), ranks=ranks, device=device, **chosen))


def start(folder: Path, stage: str, preset: Preset, ranks: int, options: dict[str, Any]) -> list[subprocess.Popen[str]]:
    """Start the processes."""
    (folder / "preset.pickle").write_bytes(pickle.dumps(preset))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = "import sys; from tests.train.test_distributed import work; work(*sys.argv[1:])"
    common = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", call, str(folder), stage, json.dumps(options)],
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def train(folder: Path, stage: str, preset: Preset, *, ranks: int, **options: Any) -> list[int]:
    """Train a stage in processes of its own; return how they ended."""
    started = start(folder, stage, preset, ranks, options)
    ended = []
    for process in started:
        _, errors = process.communicate()
        ended.append(process.returncode)
        assert process.returncode == 0 or "die" in options, errors
    return ended


def far(first: dict[str, dict[str, Tensor]], second: dict[str, dict[str, Tensor]]) -> float:
    """Return the largest difference between two results of a stage."""
    assert first.keys() == second.keys()
    pairs = [(first[file], second[file]) for file in first]
    assert all(one.keys() == other.keys() for one, other in pairs)
    return max(float((one[name] - other[name]).abs().max()) for one, other in pairs for name in one)


def alone(chain: Chain, folder: Path, stage: str, preset: Preset) -> dict[str, dict[str, Tensor]]:
    """Return what one process makes of a stage."""
    chain.copy(folder, without=EARLIER[stage])
    with pytest.MonkeyPatch.context() as patch:
        smooth(patch)
        assert stages.run(stage, preset, Run(folder))
    return chain.results(stage, folder)


def ten_steps(changed: Change, stage: str, **settings: Any) -> Preset:
    """Return the preset with ten steps of a stage, each of four micro-batches of two."""
    size: dict[str, Any] = {"batch": 2}
    if stage == "teacher":
        size = {"phases": [{"frames": 1, "batch": 2, "until": 0.5}, {"frames": 4, "batch": 2, "until": 1.0}]}
    return changed(stage, steps=10, accumulate=4, learning_rate=1e-2, **size, **settings)


def untrained(chain: Chain, stage: str) -> dict[str, dict[str, Tensor]]:
    """Return the weights that a stage begins with, under the names of its result."""
    before = {"ode": "teacher.safetensors", "dmd": "student_ode.safetensors"}[stage]
    return {RESULTS[stage][0]: load_file(chain.folder / before)}


@pytest.mark.parametrize(
    "stage", ["teacher", pytest.param("ode", marks=pytest.mark.slow), pytest.param("dmd", marks=pytest.mark.slow)]
)
def test_two_processes_train_what_one_trains(stage: str, chain: Chain, changed: Change, tmp_path: Path) -> None:
    preset = ten_steps(changed, stage)
    one = alone(chain, tmp_path / "one", stage, preset)
    two = chain.copy(tmp_path / "two", without=EARLIER[stage])
    train(two, stage, preset, ranks=2)
    assert far(chain.results(stage, two), one) < 1e-5
    if stage != "teacher":
        assert far(one, untrained(chain, stage)) > 1e-3
    rows = [
        [json.loads(row) for row in (place / stage / "metrics.jsonl").read_text().splitlines()]
        for place in (tmp_path / "one", two)
    ]
    for ours, theirs in zip(*rows, strict=True):
        assert ours.keys() == theirs.keys()
        assert {k: v for k, v in ours.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in theirs.items() if k != "seconds"}, rel=1e-4, abs=1e-5
        )
