"""Two processes train what one trains, and go on where they were killed, on as many processes or on fewer.

Adam divides a gradient by its size, and makes anything of one that is zero but for rounding. So it has an epsilon here
that is above rounding: what two ways of summing differ by is then as small in the weights as in the gradients.
"""

import datetime
import json
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from causvid.preset import Preset
from causvid.train import distributed, dmd, loop, objective, ode, sharded, stages, teacher
from causvid.train.checkpoint import CHECKPOINT
from causvid.train.run import Run
from causvid.train.speed import TIMES

from .conftest import RESULTS, Chain, make_small

ROOT = Path(__file__).parents[2]
EARLIER = {"teacher": ("teacher", "decoder", "pairs", "ode", "dmd"), "ode": ("ode", "dmd"), "dmd": ("dmd",)}
Change = Callable[..., Preset]


def smooth(patch: pytest.MonkeyPatch) -> None:
    """Let Adam be a smooth function of gradients, and products be fp32 on every CPU."""
    for module in (teacher, ode, dmd):
        patch.setattr(module, "autocast", lambda device: torch.autocast("cpu", enabled=False))
    exact = objective.adamw

    def adamw(*arguments: Any) -> torch.optim.AdamW:
        optimizer = exact(*arguments)
        for group in optimizer.param_groups:
            group["eps"] = 1e-2
        return optimizer

    patch.setattr(objective, "adamw", adamw)


def work(folder: str, stage: str, options: str) -> None:
    """Be one of the processes that train a stage.

    die: which of them ends without a word, and at what step. spoil: whose metrics are not finite, and at what step.
    together: how many of them share a clip.
    """
    torch.set_num_threads(1)
    patch, chosen = pytest.MonkeyPatch(), json.loads(options)
    make_small(patch)
    smooth(patch)
    die, spoil, together = (
        chosen.pop(name, default) for name, default in (("die", None), ("spoil", None), ("together", 1))
    )
    patch.setattr(distributed, "JOINING", datetime.timedelta(seconds=30))
    take_step = loop.take_step

    def step(stage: loop.Stage, run: Run, n: int) -> Any:
        if die == [run.ranks.rank, n]:
            os.kill(os.getpid(), signal.SIGKILL)
        metrics = take_step(stage, run, n)
        return (
            {name: value * float("nan") for name, value in metrics.items()} if spoil == [run.ranks.rank, n] else metrics
        )

    patch.setattr(loop, "take_step", step)
    preset = pickle.loads((Path(folder) / "preset.pickle").read_bytes())
    with distributed.processes(torch.device("cpu")) as (ranks, device):
        ranks = replace(ranks, together=together)
        stages.run(stage, preset, Run(Path(folder), ranks=ranks, device=device, **chosen))
    # Gloo's threads abort a process that ends before they do.
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
    assert not [name for name in names if "gloo" in name], names


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
    """Return the largest difference between two results of a stage, or their checkpoints."""
    assert first.keys() == second.keys()
    pairs = [(first[file], second[file]) for file in first]
    assert all(one.keys() == other.keys() for one, other in pairs)
    assert all(one[name].shape == other[name].shape for one, other in pairs for name in one)
    return max(
        float((one[name] - other[name]).abs().max()) for one, other in pairs for name in one if one[name].numel()
    )


def alone(chain: Chain, folder: Path, stage: str, preset: Preset) -> dict[str, dict[str, Tensor]]:
    """Return what one process makes of a stage."""
    chain.copy(folder, without=EARLIER[stage])
    with pytest.MonkeyPatch.context() as patch:
        smooth(patch)
        assert stages.run(stage, preset, Run(folder))
    return chain.results(stage, folder)


def several_steps(changed: Change, stage: str, *, micro: int = 4, clips: int = 2, **settings: Any) -> Preset:
    """Return the preset with ten steps of a stage, each of so many micro-batches of so many clips."""
    size: dict[str, Any] = {"batch": clips}
    if stage == "teacher":
        size = {"phases": [{"frames": 1, "batch": clips, "until": 0.5}, {"frames": 4, "batch": clips, "until": 1.0}]}
    return changed(stage, **{"steps": 10, "learning_rate": 1e-2, **settings}, accumulate=micro, **size)


def everything(folder: Path, stage: str) -> dict[str, dict[str, Tensor]]:
    """Return all tensors of a stage's checkpoint, averages and optimizers among them, by file or as one."""
    place = sharded.newest(folder / stage)
    if place is not None:
        return {file.name: load_file(file) for file in sorted(place.glob("*.safetensors"))}
    state = torch.load(folder / stage / CHECKPOINT, weights_only=True)["state"]
    return {CHECKPOINT: {path: value for path, value in sharded.walk(state) if isinstance(value, Tensor)}}


def step_of(folder: Path, stage: str) -> int:
    """Return the step of a stage's newest checkpoint, 0 if there is none."""
    place = sharded.newest(folder / stage)
    return 0 if place is None else int(place.name)


def rows(folder: Path, stage: str) -> list[dict[str, float]]:
    """Return the metrics that a stage has logged."""
    lines = (folder / stage / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def untrained(chain: Chain, stage: str) -> dict[str, dict[str, Tensor]]:
    """Return the weights that a stage begins with, under the names of its result."""
    before = {"ode": "teacher.safetensors", "dmd": "student_ode.safetensors"}[stage]
    return {RESULTS[stage][0]: load_file(chain.folder / before)}


of_every_stage = pytest.mark.parametrize("stage", ["teacher", "ode", "dmd"])


@pytest.mark.slow
@pytest.mark.parametrize(("micro", "clips"), [(4, 2), (8, 1)])
@of_every_stage
def test_two_processes_train_what_one_trains(
    stage: str, micro: int, clips: int, chain: Chain, changed: Change, tmp_path: Path
) -> None:
    preset = several_steps(changed, stage, micro=micro, clips=clips)
    one = alone(chain, tmp_path / "one", stage, preset)
    two = chain.copy(tmp_path / "two", without=EARLIER[stage])
    train(two, stage, preset, ranks=2)
    assert far(chain.results(stage, two), one) < 1e-5
    if stage != "teacher":
        assert far(one, untrained(chain, stage)) > 1e-3
    for ours, theirs in zip(rows(tmp_path / "one", stage), rows(two, stage), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@of_every_stage
def test_two_processes_that_share_every_clip_train_what_one_trains(
    stage: str, chain: Chain, changed: Change, tmp_path: Path
) -> None:
    preset = several_steps(changed, stage, recompute=stage == "dmd")
    one = alone(chain, tmp_path / "one", stage, preset)
    two = chain.copy(tmp_path / "two", without=EARLIER[stage])
    train(two, stage, preset, ranks=2, together=2)
    assert far(chain.results(stage, two), one) < 1e-5
    for ours, theirs in zip(rows(tmp_path / "one", stage), rows(two, stage), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_a_step_of_two_processes_that_share_a_clip_is_the_plain_one(
    chain: Chain, changed: Change, tmp_path: Path
) -> None:
    preset = several_steps(changed, "dmd", micro=1, steps=2, recompute=True, image=0.0, critic_updates=1)
    alone(chain, tmp_path / "one", "dmd", preset)
    two = chain.copy(tmp_path / "two", without=EARLIER["dmd"])
    train(two, "dmd", preset, ranks=2, together=2)
    assert far(chain.results("dmd", two), chain.results("dmd", tmp_path / "one")) < 1e-5
    for ours, theirs in zip(rows(tmp_path / "one", "dmd"), rows(two, "dmd"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ode", "dmd"])
def test_two_processes_train_the_lora_that_one_trains(
    stage: str, chain: Chain, changed: Change, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    preset = several_steps(changed, stage, lora={"rank": 4}, learning_rate=5.0)
    one = alone(chain, tmp_path / "one", stage, preset)
    two = chain.copy(tmp_path / "two", without=EARLIER[stage])
    train(two, stage, preset, ranks=2)
    assert far(chain.results(stage, two), one) < 1e-5 and far(one, untrained(chain, stage)) > 1e-3
    assert far(everything(two, stage), everything(tmp_path / "one", stage)) < 1e-5
    lora = RESULTS[stage][0].replace(".safetensors", "_lora/adapter_model.safetensors")
    assert far(*({"lora": load_file(folder / lora)} for folder in (two, tmp_path / "one"))) < 1e-5


def test_one_process_goes_on_where_one_of_two_was_killed(
    chain: Chain, changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = several_steps(changed, "ode", micro=2, clips=1, steps=4)
    one = alone(chain, tmp_path / "one", "ode", preset)
    two = chain.copy(tmp_path / "two", without=EARLIER["ode"])
    ended = train(two, "ode", preset, ranks=2, die=[1, 2], checkpoint_minutes=0)
    assert ended[1] == -signal.SIGKILL and ended[0] > 0
    assert step_of(two, "ode") in (1, 2)
    smooth(monkeypatch)
    assert stages.run("ode", preset, Run(two))
    assert far(chain.results("ode", two), one) < 1e-5
    assert far(everything(two, "ode"), everything(tmp_path / "one", "ode")) < 1e-5
    assert [row["step"] for row in rows(two, "ode")] == [1, 2, 3, 4]
    assert (two / "ode" / CHECKPOINT).exists() and not (two / "ode" / sharded.FOLDER).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kills"), [("teacher", 3), ("ode", 3), ("dmd", 4)])
def test_ten_kills_at_any_moment_leave_the_unbroken_result(
    stage: str, kills: int, chain: Chain, changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, draw = several_steps(changed, stage), random.Random(stage)
    unbroken = chain.copy(tmp_path / "unbroken", without=EARLIER[stage])
    train(unbroken, stage, preset, ranks=2)
    two = chain.copy(tmp_path / "two", without=EARLIER[stage])
    for _ in range(kills):
        until = step_of(two, stage) + draw.randrange(2)
        processes = start(two, stage, preset, 2, {"checkpoint_minutes": 0})
        while step_of(two, stage) < until:
            assert all(process.poll() is None for process in processes)
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.5))
        killed = draw.choice(processes)
        killed.kill()
        for process in processes:
            process.communicate()
        print(f"{stage}: process {processes.index(killed)} killed at step {step_of(two, stage)}")
        assert killed.returncode == -signal.SIGKILL
    fewer = shutil.copytree(two, tmp_path / "fewer")
    train(two, stage, preset, ranks=2)
    assert far(chain.results(stage, two), chain.results(stage, unbroken)) == 0
    assert far(everything(two, stage), everything(unbroken, stage)) == 0
    assert rows(two, stage) == rows(unbroken, stage)
    smooth(monkeypatch)
    assert stages.run(stage, preset, Run(fewer))
    assert far(chain.results(stage, fewer), chain.results(stage, unbroken)) < 1e-5


@pytest.mark.slow
def test_a_metric_of_one_process_that_is_not_finite_stops_both(
    chain: Chain, changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = several_steps(changed, "dmd")
    one = alone(chain, tmp_path / "one", "dmd", preset)
    two = chain.copy(tmp_path / "two", without=EARLIER["dmd"])
    for process in start(two, "dmd", preset, 2, {"spoil": [1, 6], "checkpoint_minutes": 0}):
        _, errors = process.communicate()
        assert "stage dmd stopped at step 7: critic_loss=nan; the checkpoint of step 6 is kept" in errors
        assert process.returncode == 1
    assert step_of(two, "dmd") == 6
    smooth(monkeypatch)
    assert stages.run("dmd", preset, Run(two))
    assert far(chain.results("dmd", two), one) < 1e-5


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(
    chain: Chain, changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = several_steps(changed, "ode")
    one = alone(chain, tmp_path / "one", "ode", preset)
    two = chain.copy(tmp_path / "two", without=EARLIER["ode"])
    smooth(monkeypatch)
    assert not stages.run("ode", preset, Run(two, deadline=0))
    train(two, "ode", preset, ranks=2)
    assert far(chain.results("ode", two), one) < 1e-5
    assert not (two / "ode" / CHECKPOINT).exists()


@pytest.mark.parametrize("stage", ["teacher", "ode", "dmd"])
def test_recomputed_blocks_have_the_same_gradients(stage: str, chain: Chain, changed: Change) -> None:
    trained, calls = [], []
    for recompute in (False, True):
        built = chain.build(stage, changed(stage, recompute=recompute))
        module = list(built.modules.values())[-1 if stage == "dmd" else 0]
        chain.step(built)
        (chosen,) = [one for one in built.objectives if module in one.modules.values()]
        state = chosen.optimizers["optimizer"].state_dict()["state"]
        trained.append([moments["exp_avg"] for moments in state.values()])
        calls.append("forward" in vars(module.blocks[0]))
    assert calls == [False, True] and any(float(part.abs().max()) > 0 for part in trained[0])
    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
