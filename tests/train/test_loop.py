"""The training loop: whole steps, checkpoints that are whole or absent, and one row of metrics a step."""

import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from causvid.recipe import StageConfig
from causvid.train import run
from causvid.train.checkpoint import last_row, load_checkpoint
from causvid.train.loop import Stage, train
from causvid.train.objective import Metrics, Micro, Objective
from causvid.train.run import Run, deadline_in


class Toy:
    """A stage with one weight; `before` is called in the middle of every step."""

    def __init__(
        self, steps: int = 6, before: Callable[[int], None] = lambda n: None, width: int = 3, **settings: Any
    ) -> None:
        self.model = nn.Linear(width, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.results: list[torch.Tensor] = []

        def loss(micro: Micro) -> tuple[torch.Tensor, Metrics]:
            before(micro.step)
            return self.model(torch.randn(4, width, generator=micro.noise)).square().mean(), {}

        def finish() -> None:
            self.results.append(self.model.weight.detach().clone())

        config = StageConfig(steps=steps, learning_rate=0.1, warmup=0, cooldown=0, max_norm=1e9)
        objective = Objective("toy", loss, {"model": self.model}, config)
        self.stage = Stage("toy", steps, settings, finish, [objective])


def rows(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "toy" / "metrics.jsonl").read_text().splitlines()]


def checkpoint_step(folder: Path) -> int:
    return torch.load(folder / "toy" / "checkpoint.pt", weights_only=True)["step"]


def fail_at(step: int) -> Callable[[int], None]:
    def fail(n: int) -> None:
        if n == step:
            raise InterruptedError("the power is gone")

    return fail


def press_ctrl_c_at(step: int, times: int = 1, number: signal.Signals = signal.SIGINT) -> Callable[[int], None]:
    def press(n: int) -> None:
        for _ in range(times if n == step else 0):
            signal.raise_signal(number)

    return press


@pytest.fixture
def unbroken(tmp_path: Path) -> torch.Tensor:
    toy = Toy()
    assert train(toy.stage, Run(tmp_path / "unbroken"))
    return toy.results[0]


def test_a_step_at_a_time_is_the_unbroken_run(tmp_path, unbroken):
    for done in range(1, 7):
        toy = Toy()
        assert train(toy.stage, Run(tmp_path, deadline=0)) == (done == 6)
        assert checkpoint_step(tmp_path) == done and rows(tmp_path) == list(range(1, done + 1))
    assert torch.equal(toy.results[0], unbroken)
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "toy" / "metrics.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)


def test_a_crash_costs_the_steps_since_the_checkpoint_and_leaves_no_row_twice(tmp_path, unbroken):
    train(Toy().stage, Run(tmp_path, deadline=0))
    with pytest.raises(InterruptedError, match="power"):
        train(Toy(before=fail_at(4)).stage, Run(tmp_path))
    assert checkpoint_step(tmp_path) == 1 and rows(tmp_path) == [1, 2, 3, 4]
    with (tmp_path / "toy" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "sec')  # a row that was being written
    toy = Toy()
    assert train(toy.stage, Run(tmp_path))
    assert rows(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert torch.equal(toy.results[0], unbroken)


def test_checkpoints_are_written_as_often_as_asked(tmp_path):
    with pytest.raises(InterruptedError, match="power"):
        train(Toy(before=fail_at(4)).stage, Run(tmp_path, checkpoint_minutes=0))
    assert checkpoint_step(tmp_path) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_ctrl_c_and_sigterm_finish_the_step_and_keep_it(step, number, tmp_path, unbroken):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(Toy(before=press_ctrl_c_at(step, number=number)).stage, Run(tmp_path))
    assert signal.getsignal(number) is before
    assert checkpoint_step(tmp_path) == step + 1 and rows(tmp_path) == list(range(1, step + 2))
    toy = Toy()
    assert train(toy.stage, Run(tmp_path))
    assert torch.equal(toy.results[0], unbroken)


def test_a_second_ctrl_c_ends_at_once_and_spoils_nothing(tmp_path, unbroken):
    train(Toy().stage, Run(tmp_path, deadline=0))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Toy(before=press_ctrl_c_at(3, times=2)).stage, Run(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert checkpoint_step(tmp_path) == 1
    toy = Toy()
    assert train(toy.stage, Run(tmp_path))
    assert torch.equal(toy.results[0], unbroken)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    train(Toy().stage, Run(tmp_path, deadline=0))

    def full(value: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"checkpoint\.pt cannot be written: no space left"),
    ):
        patch.setattr(torch, "save", full)
        train(Toy().stage, Run(tmp_path, deadline=0))
    assert checkpoint_step(tmp_path) == 1
    assert train(Toy().stage, Run(tmp_path))


def test_a_finished_stage_takes_no_step_and_writes_its_result_again(tmp_path, unbroken):
    assert train(Toy().stage, Run(tmp_path))
    toy = Toy(before=fail_at(0))
    assert train(toy.stage, Run(tmp_path))
    assert torch.equal(toy.results[0], unbroken)
    assert rows(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_stage_ends_once_its_deadline_has_passed(tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(run.time, "monotonic", lambda: float(next(clock)))
    assert not train(Toy(before=lambda n: monkeypatch.undo() if n == 4 else None).stage, Run(tmp_path, deadline=9))
    assert 1 < checkpoint_step(tmp_path) < 6
    assert train(Toy().stage, Run(tmp_path, deadline=deadline_in(1)))
    assert rows(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_samples_are_taken_between_steps_and_at_the_end(tmp_path, monkeypatch):
    seen: list[int] = []
    stage = replace(Toy().stage, sample=lambda folder, done: seen.append(done))
    train(stage, Run(tmp_path / "often", sample_minutes=0))
    train(replace(Toy().stage, sample=lambda folder, done: seen.append(-done)), Run(tmp_path / "seldom"))
    assert seen == [1, 2, 3, 4, 5, 6, -6]


@pytest.mark.parametrize(("steps", "every"), [(49, 1), (250, 5), (252, 5)])
def test_a_long_stage_logs_about_fifty_times_and_its_last_step(steps, every, tmp_path):
    assert train(Toy(steps=steps).stage, Run(tmp_path))
    assert rows(tmp_path) == sorted({*range(every, steps + 1, every), steps})


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "half"])
def test_a_damaged_checkpoint_is_refused_in_one_line(content, tmp_path):
    train(Toy().stage, Run(tmp_path, deadline=0))
    path = tmp_path / "toy" / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged: delete it") as error:
        train(Toy().stage, Run(tmp_path))
    assert "\n" not in str(error.value)


def test_no_flipped_bit_of_a_checkpoint_changes_what_is_resumed(tmp_path):
    train(Toy().stage, Run(tmp_path, deadline=0))
    path = tmp_path / "toy" / "checkpoint.pt"
    whole, refused = path.read_bytes(), 0
    state = Toy().stage.state
    load_checkpoint(path, state, settings={}, device=torch.device("cpu"))
    kept = repr([part.state_dict() for part in state.values()])
    directory = whole.index(b"PK\x01\x02")
    flips = random.Random(0).sample(range(8 * len(whole)), 200)
    flips += [8 * byte + 4 for byte in range(directory, len(whole))]
    for bit in flips:
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoiled)
        state = Toy().stage.state
        try:
            load_checkpoint(path, state, settings={}, device=torch.device("cpu"))
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:  # a bit of padding, or of a date
            assert repr([part.state_dict() for part in state.values()]) == kept
    assert refused > len(flips) // 4


def test_a_checkpoint_of_something_else_is_refused_in_one_line(tmp_path):
    train(Toy(width=4).stage, Run(tmp_path, deadline=0))
    path = tmp_path / "toy" / "checkpoint.pt"
    with pytest.raises(ValueError, match=r"does not fit this stage \(size mismatch for weight") as error:
        train(Toy().stage, Run(tmp_path))
    whole = {"step": 1, "seconds": 0.0, "started_with": {}, "state": {}}
    wrong = (
        [1, 2],
        torch.ones(3),
        {"state": {"model": 3}},
        {**whole, "state": {"model": 3, "toy optimizer": 4}},
        {**whole, "state": torch.ones(2)},
        {**whole, "started_with": torch.ones(0)},
    )
    for other in (whole, *wrong):
        torch.save(other, path)
        with pytest.raises(ValueError, match=r"does not fit this stage|is not a checkpoint of a stage") as error:
            train(Toy().stage, Run(tmp_path))
        assert "\n" not in str(error.value)


def test_a_run_resumes_only_with_what_it_was_started_with(tmp_path):
    train(Toy(batch=4, phases=[{"frames": 1}]).stage, Run(tmp_path, seed=3, deadline=0))
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


def spoil_at(step: int, toy: Toy) -> Toy:
    """Make the loss of a step not a number."""
    (objective,) = toy.stage.objectives

    def loss(micro: Micro) -> tuple[torch.Tensor, Metrics]:
        value, metrics = objective.loss(micro)
        return (value * float("nan") if micro.step == step else value), metrics

    toy.stage = replace(toy.stage, objectives=[replace(objective, loss=loss)])
    return toy


@pytest.mark.parametrize("step", [0, 3])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(step, tmp_path, unbroken):
    taken: list[int] = []
    toy = spoil_at(step, Toy(before=taken.append))
    with pytest.raises(ValueError, match=rf"stage toy stopped at step {step + 1}: loss=nan; ") as error:
        train(toy.stage, Run(tmp_path, checkpoint_minutes=0))
    assert taken == list(range(step + 1)) and not toy.results and "\n" not in str(error.value)
    assert ("no checkpoint was written yet" in str(error.value)) == (step == 0)
    assert rows(tmp_path) == list(range(1, step + 1))
    assert step == 0 or checkpoint_step(tmp_path) == step
    toy = Toy()
    assert train(toy.stage, Run(tmp_path))
    assert torch.equal(toy.results[0], unbroken)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    toy = Toy(before=lambda n: None)
    toy.model.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(ValueError, match="grad_norm="):
        train(toy.stage, Run(tmp_path))
    assert not (tmp_path / "toy" / "checkpoint.pt").exists()


def test_rows_that_are_damaged_are_dropped_one_by_one(tmp_path):
    train(Toy().stage, Run(tmp_path, deadline=0))
    path = tmp_path / "toy" / "metrics.jsonl"
    path.write_bytes(b'[1]\n{"step": "x"}\n\xff\n{"step": 1}\n' + path.read_bytes() + b'{"step": 2, "sec')
    assert train(Toy().stage, Run(tmp_path))
    assert rows(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert last_row(tmp_path / "toy")["step"] == 6 and last_row(tmp_path) is None
