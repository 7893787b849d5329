"""Learning-rate schedule, weight averaging and fp32 master weights."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

from causvid.recipe import StageConfig
from causvid.train.objective import Ema, Objective, learning_rate, optimise
from causvid.train.run import Run


def test_the_rate_warms_up_stays_and_falls_in_straight_lines():
    config = StageConfig(steps=100, learning_rate=2.0, warmup=10, cooldown=0.2)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[9:81] == pytest.approx([2.0] * 72)
    assert rates[80:] == pytest.approx([2.0 * (100 - step) / 20 for step in range(80, 100)])
    assert learning_rate(config, 90, 6.0) == pytest.approx(3 * rates[90])  # the critic's, over the same course


def test_a_rate_without_warmup_and_cooldown_is_constant():
    config = StageConfig(steps=7, learning_rate=0.3, warmup=0, cooldown=0.0)
    assert [learning_rate(config, step) for step in range(7)] == [0.3] * 7


def test_the_average_is_the_exponential_one_once_it_is_old():
    model, decay, start = nn.Linear(1, 1, bias=False), 0.9, 1000
    nn.init.zeros_(model.weight)
    average = Ema(model, decay)
    average.updates = start
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        average.update()
    expected = (1 - decay) * (1.0 * decay**2 + 2.0 * decay + 4.0)
    assert average.weights["weight"].item() == pytest.approx(expected)
    assert average.updates == start + 3


def test_a_young_average_forgets_where_it_began():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 100.0)
    average, expected = Ema(model, 0.999), 100.0
    for update_number in range(1, 21):
        nn.init.zeros_(model.weight)
        average.update()
        expected *= (1 + update_number) / (10 + update_number)
    assert average.weights["weight"].item() == pytest.approx(expected)
    assert expected < 1e-3 < 100 * 0.999**20


def test_the_average_moves_by_less_than_half_precision_can_tell():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    average = Ema(model, 0.999)
    average.updates = 10_000
    nn.init.constant_(model.weight, 1.125)
    average.update()
    assert average.weights["weight"].dtype == torch.float32
    assert average.weights["weight"].item() == pytest.approx(1.000125, abs=1e-6)
    before = model.weight.clone()
    assert torch.equal(model.weight, before)


def test_an_average_follows_buffers_and_survives_its_own_state():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average, other = Ema(model, 0.5), Ema(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 0.5)
    model(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    average.update()
    other.load_state_dict(average.state_dict())
    assert other.updates == 1 and average.weights["1.running_mean"].abs().sum() > 0
    assert all(torch.equal(other.weights[name], value) for name, value in average.weights.items())


def test_decay_touches_matrices_only_and_the_gradient_is_clipped(tmp_path):
    model = nn.Linear(2, 2)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    config = StageConfig(steps=9, learning_rate=7.0, weight_decay=0.5, warmup=0, cooldown=0)

    def step(loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        objective = Objective("toy", lambda micro: (loss(), {}), {"model": model}, config, rate=0.1)
        return optimise(objective, "toy", Run(tmp_path), 0)["grad_norm"]

    assert step(lambda: (0 * model.weight).sum() + (0 * model.bias).sum()) == 0
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 2), 0.95))  # at the rate of the step, not config's
    torch.testing.assert_close(model.bias.detach(), torch.ones(2))
    assert step(lambda: 30 * model.bias[0] + 40 * model.bias[1]).item() == pytest.approx(50)  # before clipping


@pytest.mark.parametrize("stage", ["autoencoder", "classifier", "teacher", "decoder", "ode", "dmd"])
def test_weights_averages_and_moments_are_fp32(stage, chain):
    def types(value):
        if isinstance(value, torch.Tensor):
            return {value.dtype} if value.is_floating_point() else set()
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return set().union(*map(types, parts))

    assert types(torch.load(chain.folder / stage / "checkpoint.pt", weights_only=True)["state"]) == {torch.float32}


@pytest.mark.parametrize("stage", ["ode", "dmd"])
def test_under_mixed_precision_a_rate_that_bfloat16_would_swallow_still_moves_the_weights(
    stage, chain, changed, monkeypatch
):
    module = importlib.import_module(f"causvid.train.{stage}")
    monkeypatch.setattr(module, "autocast", lambda device: torch.autocast("cpu", dtype=torch.bfloat16))
    preset = changed(stage, learning_rate=2e-6, warmup=1)
    built = chain.build(stage, preset)
    student = built.modules["student"]
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    metrics = chain.step(built)
    assert all(torch.isfinite(value) for value in metrics.values())
    weight, old = student.blocks[0].feed_forward[0].weight, before["blocks.0.feed_forward.0.weight"]
    assert weight.dtype == torch.float32
    assert (weight != old).float().mean() > 0.9
    assert (weight.bfloat16() != old.bfloat16()).float().mean() < 0.1
