"""The memory of training, before it begins: what more processes, a LoRA and recomputing save; and cutting a step."""

from dataclasses import replace

import pytest

from causvid import cli
from causvid.engine.plan import sketch_preset
from causvid.preset import load_preset
from causvid.recipe import cut
from causvid.train.plan import Training, plan_training

WEIGHTS = "weights in training"


@pytest.fixture(scope="module")
def sketch():
    return sketch_preset(load_preset("test"))


def test_weights_are_shared_by_processes_and_activations_are_not(sketch) -> None:
    alone = Training("dmd", batch=4, frames=7)
    one, two = (plan_training(sketch, replace(alone, ranks=ranks)) for ranks in (1, 2))
    for part in (WEIGHTS, "frozen weights", "averages of weights"):
        assert two.parts[part] == pytest.approx(one.parts[part] / 2, rel=1e-3)
    assert one.parts["moments of the optimizer"] == 2 * one.parts[WEIGHTS]
    assert two.peak > one.peak / 2


def test_a_lora_and_recomputing_save_memory_and_more_clips_take_it(sketch) -> None:
    plain = Training("ode", batch=4, frames=7)
    peak = plan_training(sketch, plain).peak
    lora = plan_training(sketch, replace(plain, lora=4))
    assert lora.parts[WEIGHTS] < plan_training(sketch, plain).parts[WEIGHTS] / 10 < lora.parts["frozen weights"]
    assert plan_training(sketch, replace(plain, recompute=True)).peak < peak
    assert plan_training(sketch, replace(plain, batch=16)).peak > 2 * peak


def test_what_cannot_be_planned_is_refused_in_a_line(sketch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="frames=6 are not whole chunks"):
        plan_training(sketch, Training("ode", batch=1, frames=6))
    with pytest.raises(ValueError, match="stage=teacher trains all weights"):
        plan_training(sketch, Training("teacher", batch=1, frames=7, lora=4))
    for words, line in (
        (["--ranks", "2"], "ranks=2 is about training: add --train"),
        (["--train", "dmd"], "--train plans a preset"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(["plan", *words])
        assert caught.value.code == 2 and line in capsys.readouterr().err


def test_the_command_says_what_each_process_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", "--model", "test", "--train", "dmd", "--ranks", "2", "--gpu", "80GB"])
    out = capsys.readouterr().out
    assert not caught.value.code and "on each of 2" in out and "fits into 80 GB" in out


def test_micro_batches_cut_the_clips_of_a_step() -> None:
    recipe = load_preset("nano").recipe
    assert recipe.dmd is not None and recipe.teacher is not None
    clips = recipe.dmd.batch * recipe.dmd.accumulate
    few = cut(recipe, 2)
    assert few.dmd is not None and few.teacher is not None
    assert (few.dmd.accumulate, few.dmd.batch) == (2, clips // 2)
    before, after = (
        [phase.batch * stage.accumulate for phase in stage.phases] for stage in (recipe.teacher, few.teacher)
    )
    assert before == after
    with pytest.raises(ValueError, match=r"micro-batches=7919 do not cut the .* clips of a step of stage"):
        cut(recipe, 7919)
