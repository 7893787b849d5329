"""An objective is optimised as its loss over the whole batch says, however the batch is cut."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from causvid.recipe import StageConfig
from causvid.train.loop import Stage, take_step
from causvid.train.objective import Metrics, Micro, Objective, optimise
from causvid.train.run import Run

Loss = Callable[[Micro], tuple[torch.Tensor, Metrics]]


def objective(model: nn.Module, loss: Loss, *, updates: int = 1, **settings: float) -> Objective:
    """Return an objective that plain gradient descent optimises."""
    given = {"steps": 9, "learning_rate": 0.1, "warmup": 0, "cooldown": 0, "max_norm": 1e9, **settings}
    toy = Objective("toy", loss, {"model": model}, StageConfig.make(**given), updates=updates)
    toy.optimizers = {"optimizer": torch.optim.SGD(toy.parameters)}
    return toy


def linear() -> nn.Linear:
    model = nn.Linear(5, 1)
    nn.init.constant_(model.weight, 0.3)
    nn.init.zeros_(model.bias)
    return model


@pytest.mark.parametrize("max_norm", [1e9, 0.1])
def test_four_micro_batches_of_two_are_one_of_eight(max_norm: float, tmp_path: Path) -> None:
    x = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0))
    weights, rows = [], []
    for accumulate in (1, 2, 4):
        model, size = linear(), 8 // accumulate

        def loss(micro: Micro, model: nn.Module = model, size: int = size) -> tuple[torch.Tensor, Metrics]:
            part = x[micro.step, micro.index * size : (micro.index + 1) * size]
            output = model(part)
            return (output - 1).square().mean(), {"output": output.detach().mean()}

        toy = objective(model, loss, accumulate=accumulate, max_norm=max_norm)
        rows.append([optimise(toy, "toy", Run(tmp_path), step) for step in range(3)])
        weights.append(model.weight.detach().clone())
    for other, metrics in zip(weights[1:], rows[1:], strict=True):
        torch.testing.assert_close(other, weights[0])
        torch.testing.assert_close(metrics, rows[0])


def test_the_gradient_of_a_stage_is_the_mean_over_its_micro_batches(chain, changed) -> None:
    (student,) = chain.build("ode", changed("ode", accumulate=2, max_norm=1e9)).objectives
    seen: list[torch.Tensor] = []
    student.optimizers["optimizer"].register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in student.parameters)
    )
    micros: list[Micro] = []

    def loss(micro: Micro) -> tuple[torch.Tensor, Metrics]:
        micros.append(replace(micro, noise=micro.noise.clone_state()))
        return student.loss(micro)

    optimise(SimpleNamespace(**{**vars(student), "loss": loss}), "ode", chain.run(), 0)
    (again,) = chain.build("ode").objectives
    expected = [torch.zeros_like(p) for p in again.parameters]
    for micro in micros:
        for total, part in zip(expected, torch.autograd.grad(again.loss(micro)[0], again.parameters), strict=True):
            total += part / 2
    assert len(micros) == 2
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-7)


def test_micro_batches_draw_apart_and_share_the_choices_of_an_update(tmp_path: Path) -> None:
    def draws(step: int) -> tuple[list[float], list[float]]:
        noise, choices = list[float](), list[float]()
        model = linear()

        def loss(micro: Micro) -> tuple[torch.Tensor, Metrics]:
            noise.append(float(torch.rand((), generator=micro.noise)))
            choices.append(float(torch.rand((), generator=micro.choices)))
            return model.weight.sum(), {}

        optimise(objective(model, loss, accumulate=3, updates=2), "toy", Run(tmp_path), step)
        return noise, choices

    (noise, choices), (later_noise, later_choices) = draws(0), draws(1)
    assert len({*noise, *later_noise, *choices, *later_choices}) == 2 * 3 * 2 + 2 * 2
    assert choices == [choices[0]] * 3 + [choices[3]] * 3
    assert draws(1) == draws(1)


def test_the_step_is_clipped_to_its_largest_norm(tmp_path: Path) -> None:
    model = linear()
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    toy = objective(model, lambda micro: (100 * model.weight.sum(), {}), learning_rate=1.0, max_norm=0.5)
    norm = optimise(toy, "toy", Run(tmp_path), 0)["grad_norm"]
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert norm == pytest.approx(100 * 5**0.5) and (after - before).norm() == pytest.approx(0.5, abs=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_an_average_moves_once_an_update(tmp_path: Path) -> None:
    model = linear()
    toy = objective(model, lambda micro: (model.weight.sum(), {}), accumulate=2, updates=3, ema=0.5)
    optimise(toy, "toy", Run(tmp_path), 0)
    assert toy.averages[model].updates == 3


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_averaged_module_is_the_latest_one_unless_there_is_an_average(ema: float, tmp_path: Path) -> None:
    model = linear()
    toy = objective(model, lambda micro: (model.weight.sum(), {}), ema=ema)
    optimise(toy, "toy", Run(tmp_path), 0)
    averaged = toy.averaged(model)
    assert not averaged.training and averaged is not model
    assert torch.equal(averaged.weight, model.weight) == (ema == 0)


@pytest.mark.parametrize("fails", [False, True])
def test_an_average_is_shown_in_place_and_exchanged_back(fails: bool, tmp_path: Path) -> None:
    model = linear().train()
    toy = objective(model, lambda micro: (model.weight.sum(), {}), ema=0.5)
    optimise(toy, "toy", Run(tmp_path), 0)
    own, average = (({k: v.clone() for k, v in state.items()}) for state in (model.state_dict(), toy.state(model)))
    assert not torch.equal(own["weight"], average["weight"])
    with suppress(KeyboardInterrupt), toy.shown(model):
        assert torch.equal(model.weight, average["weight"]) and not model.training
        if fails:
            raise KeyboardInterrupt
    assert torch.equal(model.weight, own["weight"]) and model.training
    assert torch.equal(toy.state(model)["weight"], average["weight"])


def test_metrics_are_named_for_their_objective_where_there_are_several(tmp_path: Path) -> None:
    model = linear()
    one = objective(model, lambda micro: (model.weight.sum(), {"spread": torch.tensor(1.0)}))
    stage = Stage("toy", 1, {}, lambda: None, [one])
    assert set(take_step(stage, Run(tmp_path), 0)) == {"loss", "spread", "grad_norm"}
    stage = Stage("toy", 1, {}, lambda: None, [one, one])
    assert set(take_step(stage, Run(tmp_path), 0)) == {"toy_loss", "toy_spread", "toy_grad_norm"}


def test_muon_turns_block_matrices_by_its_rate_and_adamw_the_rest(chain, changed) -> None:
    preset = changed("teacher", optimizer="muon", warmup=0)
    stage = chain.build("teacher", preset)
    (teacher,) = stage.objectives
    assert set(stage.state) >= {"teacher optimizer", "teacher muon"}
    blocks = {name: p for name, p in stage.modules["model"].blocks.named_parameters() if p.ndim == 2}
    optimise(teacher, "teacher", chain.run(), 0)  # the head begins silent, so blocks have no gradient yet
    before = {name: p.detach().clone() for name, p in blocks.items()}
    optimise(teacher, "teacher", chain.run(), 1)
    rate = preset.recipe.teacher.learning_rate
    for name, p in blocks.items():
        turned = (p.detach() - before[name]) / (0.2 * rate * max(p.shape) ** 0.5)
        # Five Newton-Schulz iterations bring singular values near one, but not those that were next to nothing.
        assert 0.6 < float(torch.linalg.matrix_norm(turned, 2)) < 1.3, name
    moved = {id(p) for group in teacher.optimizers["optimizer"].param_groups for p in group["params"]}
    assert moved == {id(p) for p in teacher.parameters} - {id(p) for p in blocks.values()}
