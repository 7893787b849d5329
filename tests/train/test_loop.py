"""The training loop: whole steps, checkpoints that are whole or absent, and one row of metrics a step."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from causvid.train import loop
from causvid.train.loop import Run, Stage, step_generator, train


class Toy:
    """A stage with one weight and Adam; `before` is called in the middle of every step."""

    def __init__(
        self, steps: int = 6, before: Callable[[int], None] = lambda n: None, width: int = 3, **settings: Any
    ) -> None:
        self.model = nn.Linear(width, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.results: list[torch.Tensor] = []

        def step(n: int) -> dict[str, torch.Tensor]:
            x = torch.randn(4, width, generator=step_generator(0, "toy", n))
            loss = self.model(x).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            before(n)
            self.optimizer.step()
            return {"loss": loss.detach()}

        def finish() -> None:
            self.results.append(self.model.weight.detach().clone())

        state = {"model": self.model, "optimizer": self.optimizer}
        self.stage = Stage("toy", steps, settings, state, step, finish)


def rows(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "toy" / "metrics.jsonl").read_text().splitlines()]


def checkpoint_step(folder: Path) -> int:
    return torch.load(folder / "toy" / "checkpoint.pt", weights_only=True)["step"]


def fail_at(step: int) -> Callable[[int], None]:
    def fail(n: int) -> None:
        if n == step:
            raise RuntimeError("the power is gone")

    return fail


def press_ctrl_c_at(step: int, times: int = 1) -> Callable[[int], None]:
    def press(n: int) -> None:
        for _ in range(times if n == step else 0):
            os.kill(os.getpid(), signal.SIGINT)

    return press


@pytest.fixture
def unbroken(tmp_path: Path) -> torch.Tensor:
    toy = Toy()
    assert train(toy.stage, Run(tmp_path / "unbroken"))
    return toy.results[0]


def test_a_step_at_a_time_is_the_unbroken_run(tmp_path, unbroken):
    for done in range(1, 7):
        toy = Toy()
        assert train(toy.stage, Run(tmp_path, minutes=0)) == (done == 6)
        assert checkpoint_step(tmp_path) == done and rows(tmp_path) == list(range(1, done + 1))
    assert torch.equal(toy.results[0], unbroken)
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "toy" / "metrics.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)


def test_a_crash_costs_the_steps_since_the_checkpoint_and_leaves_no_row_twice(tmp_path, unbroken):
    train(Toy().stage, Run(tmp_path, minutes=0))
    with pytest.raises(RuntimeError, match="power"):
        train(Toy(before=fail_at(4)).stage, Run(tmp_path))
    assert checkpoint_step(tmp_path) == 1 and rows(tmp_path) == [1, 2, 3, 4]
    with (tmp_path / "toy" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "sec')  # a row that was being written
    toy = Toy()
    assert train(toy.stage, Run(tmp_path))
    assert rows(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert torch.equal(toy.results[0], unbroken)


def test_checkpoints_are_written_as_often_as_asked(tmp_path):
    with pytest.raises(RuntimeError, match="power"):
        train(Toy(before=fail_at(4)).stage, Run(tmp_path, checkpoint_minutes=0))
    assert checkpoint_step(tmp_path) == 4


@pytest.mark.parametrize("step", [0, 3, 5])
def test_ctrl_c_finishes_the_step_and_keeps_it(step, tmp_path, unbroken):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(Toy(before=press_ctrl_c_at(step)).stage, Run(tmp_path))
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint_step(tmp_path) == step + 1 and rows(tmp_path) == list(range(1, step + 2))
    toy = Toy()
    assert train(toy.stage, Run(tmp_path))
    assert torch.equal(toy.results[0], unbroken)


def test_a_second_ctrl_c_ends_at_once_and_spoils_nothing(tmp_path, unbroken):
    train(Toy().stage, Run(tmp_path, minutes=0))
    with pytest.raises(KeyboardInterrupt):
        train(Toy(before=press_ctrl_c_at(3, times=2)).stage, Run(tmp_path))
    assert checkpoint_step(tmp_path) == 1
    toy = Toy()
    assert train(toy.stage, Run(tmp_path))
    assert torch.equal(toy.results[0], unbroken)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    train(Toy().stage, Run(tmp_path, minutes=0))

    def full(value: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(torch, "save", full)
        train(Toy().stage, Run(tmp_path, minutes=0))
    assert checkpoint_step(tmp_path) == 1
    assert train(Toy().stage, Run(tmp_path))


def test_a_finished_stage_takes_no_step_and_hands_on_its_result_again(tmp_path, unbroken):
    assert train(Toy().stage, Run(tmp_path))
    toy = Toy(before=fail_at(0))
    assert train(toy.stage, Run(tmp_path))
    assert torch.equal(toy.results[0], unbroken)
    assert rows(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_the_budget_ends_a_stage_and_counts_from_each_start(tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(60 * next(clock)))  # a minute passes at every look
    with_budget = Run(tmp_path, minutes=2, checkpoint_minutes=1e9)
    assert not train(Toy().stage, with_budget)
    assert checkpoint_step(tmp_path) == 3
    assert train(Toy().stage, with_budget)
    assert rows(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_samples_are_taken_between_steps_and_at_the_end(tmp_path, monkeypatch):
    seen: list[int] = []
    stage = replace(Toy().stage, sample=lambda folder, done: seen.append(done))
    train(stage, Run(tmp_path / "often", sample_minutes=0))
    train(replace(Toy().stage, sample=lambda folder, done: seen.append(-done)), Run(tmp_path / "seldom"))
    assert seen == [1, 2, 3, 4, 5, 6, 6, -6]


@pytest.mark.parametrize(("steps", "every"), [(49, 1), (250, 5), (252, 5)])
def test_a_long_stage_logs_about_fifty_times_and_its_last_step(steps, every, tmp_path):
    assert train(Toy(steps=steps).stage, Run(tmp_path))
    assert rows(tmp_path) == sorted({*range(every, steps + 1, every), steps})


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "half"])
def test_a_damaged_checkpoint_is_refused_in_one_line(content, tmp_path):
    train(Toy().stage, Run(tmp_path, minutes=0))
    path = tmp_path / "toy" / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged: delete it") as error:
        train(Toy().stage, Run(tmp_path))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_something_else_is_refused_in_one_line(tmp_path):
    train(Toy(width=4).stage, Run(tmp_path, minutes=0))
    path = tmp_path / "toy" / "checkpoint.pt"
    with pytest.raises(ValueError, match=r"does not fit this stage \(size mismatch for weight") as error:
        train(Toy().stage, Run(tmp_path))
    for other in ({"step": 1, "seconds": 0.0, "state": {}}, [1, 2], {"state": {"model": 3, "optimizer": 4}}):
        torch.save(other, path)
        with pytest.raises(ValueError, match="does not fit this stage") as error:
            train(Toy().stage, Run(tmp_path))
        assert "\n" not in str(error.value)


def test_a_run_goes_on_only_with_what_it_was_started_with(tmp_path):
    train(Toy(batch=4, phases=[{"frames": 1}]).stage, Run(tmp_path, seed=3, minutes=0))
    for toy, seed, line in (
        (Toy(batch=8, phases=[{"frames": 1}]), 3, "batch=8, but .* was started with 4: use another --out"),
        (Toy(batch=4, phases=[{"frames": 2}]), 3, r"phases=\[{'frames': 2}\], but "),
        (Toy(batch=4, phases=[{"frames": 1}]), 0, "seed=0, but .* was started with 3"),
    ):
        with pytest.raises(ValueError, match=line) as error:
            train(toy.stage, Run(tmp_path, seed=seed))
        assert "\n" not in str(error.value) and checkpoint_step(tmp_path) == 1
    # A setting that the checkpoint does not know yet is no hindrance, nor is a longer run.
    assert train(Toy(steps=8, batch=4, phases=[{"frames": 1}], new=1).stage, Run(tmp_path, seed=3))


def test_a_checkpoint_that_does_not_say_what_it_was_started_with_goes_on(tmp_path, unbroken):
    train(Toy(batch=4).stage, Run(tmp_path, minutes=0))
    path = tmp_path / "toy" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    assert saved.pop("started_with") == {"seed": 0, "batch": 4}
    torch.save(saved, path)
    toy = Toy(batch=8)
    assert train(toy.stage, Run(tmp_path))
    assert torch.equal(toy.results[0], unbroken)


def test_every_step_of_every_stage_and_seed_has_randomness_of_its_own():
    def first(seed: int, stage: str, step: int) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=step_generator(seed, stage, step)).tolist())

    keys = [(seed, stage, step) for seed in (0, 1, 2**31 - 1) for stage in ("ode", "dmd") for step in (0, 1, 11, 111)]
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(1, "ode", 7) == first(1, "ode", 7)
