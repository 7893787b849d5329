"""The memory of training, before it begins: what more processes, a LoRA and recomputing save; and cutting a step."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from causvid import cli
from causvid.engine.memory import peaks_with_gradients
from causvid.engine.plan import sketch_preset
from causvid.models.transformer import Transformer
from causvid.preset import Preset, load_preset
from causvid.recipe import cut
from causvid.train import samples
from causvid.train.loop import take_step
from causvid.train.objective import half_is_fast, optimise
from causvid.train.plan import Training, plan_training
from causvid.train.run import Run, save_weights
from causvid.train.stages import STAGES

from .conftest import Chain

WEIGHTS, UPDATE = "weights in training", "an update: gradients and activations"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sketch():
    return sketch_preset(load_preset("test"))


def test_weights_are_shared_by_processes_and_activations_are_not(sketch) -> None:
    alone = Training("dmd", batch=4, frames=7, half=False)
    one, two = (plan_training(sketch, replace(alone, ranks=ranks)) for ranks in (1, 2))
    for part in (WEIGHTS, "frozen weights", "averages of weights"):
        assert two.parts[part] == pytest.approx(one.parts[part] / 2, rel=1e-3)
    assert one.parts["moments of the optimizer"] == 2 * one.parts[WEIGHTS]
    assert two.peak > one.peak / 2


def test_muon_has_one_moment_of_a_matrix_where_adam_has_two(
    sketch, chain: Chain, changed: Callable[..., Preset]
) -> None:
    planned, taken = [], []
    for optimizer in ("adamw", "muon"):
        choice = Training("teacher", batch=1, frames=1, muon=optimizer == "muon")
        planned.append(plan_training(sketch, choice).parts["moments of the optimizer"])
        built = chain.build("teacher", changed("teacher", optimizer=optimizer))
        chain.step(built)
        states = [state for one in built.objectives[0].optimizers.values() for state in one.state.values()]
        moments = (part for state in states for part in state.values())
        taken.append(sum(part.numel() * 4 for part in moments if isinstance(part, torch.Tensor) and part.ndim))
    assert planned[0] - planned[1] == taken[0] - taken[1] > 0


@pytest.mark.parametrize(
    ("stage", "student_input"), [("teacher", None), ("ode", None), ("dmd", "data"), ("dmd", "rollout")]
)
@pytest.mark.parametrize("recompute", [False, True])
def test_an_update_takes_what_the_plan_says(
    stage: str, student_input: str | None, recompute: bool, chain: Chain, changed: Callable[..., Preset], tmp_path: Path
) -> None:
    size = {"phases": [{"frames": 4, "batch": 12, "until": 1.0}]} if stage == "teacher" else {"batch": 12}
    kind = {} if student_input is None else {"student_input": student_input, "critic_updates": 1}
    preset = (
        changed(stage, recompute=recompute, image=0.0, **size, **kind)
        if kind
        else changed(stage, recompute=recompute, **size)
    )
    preset = preset.model_copy(update={"transformer": preset.transformer.model_copy(update={"layers": 5})})
    folder = chain.copy(tmp_path / "run", checkpoints=False)
    weights = Transformer(preset.transformer)
    weights.initialise(torch.Generator().manual_seed(0))
    for name in ("teacher", "student_ode"):
        save_weights(weights.state_dict(), folder / f"{name}.safetensors")
    built, run = STAGES[stage](preset, Run(folder)), Run(folder)
    take_step(built, run, 0)  # now the optimizer has its moments
    measured = max(
        peaks_with_gradients(*(partial(optimise, objective, stage, run, 1) for objective in built.objectives))
    )
    choice = Training(
        stage, batch=12, frames=4, recompute=recompute, half=half_is_fast(CPU), rollout=student_input == "rollout"
    )
    planned = plan_training(sketch_preset(preset), choice).moments[UPDATE]
    print(f"{stage} {student_input} {recompute}: {planned} planned, {measured} measured, {planned / measured - 1:+.1%}")
    # How much kernels take beside is up to the processor: 12 % of so small a model where bf16 is emulated.
    assert planned == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize("batch", [2, 12])
def test_samples_take_what_the_plan_says(
    lora: int | None,
    batch: int,
    chain: Chain,
    changed: Callable[..., Preset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preset = changed("dmd", batch=batch, lora=None if lora is None else {"rank": lora})
    built = STAGES["dmd"](preset, Run(chain.copy(tmp_path / "run", checkpoints=False)))
    assert built.sample is not None
    latents: list[Any] = []
    monkeypatch.setattr(samples, "write_decoded", lambda coder, made, *_: latents.extend([coder, *made]))
    generating = partial(built.sample, tmp_path, 1)

    def decoding() -> None:
        coder, *made = latents
        assert len([clip for part in made for clip in samples.decoded(coder, part)]) == samples.SAMPLES

    measured = peaks_with_gradients(generating, decoding)
    frames = preset.generation.clip_frames
    choice = Training("dmd", batch=batch, frames=frames, lora=lora, half=half_is_fast(CPU), rollout=True)
    moments = plan_training(sketch_preset(preset), choice).moments
    planned = [moments["generating samples"], moments["decoding samples"]]
    print(f"{lora} {batch}: {planned} planned, {measured} measured")
    assert planned == pytest.approx(measured, rel=0.1)


def test_a_lora_and_recomputing_save_memory_and_more_clips_take_it(sketch) -> None:
    plain = Training("ode", batch=4, frames=7)
    update = plan_training(sketch, plain).moments[UPDATE]
    lora = plan_training(sketch, replace(plain, lora=4))
    assert lora.parts[WEIGHTS] < plan_training(sketch, plain).parts[WEIGHTS] / 10 < lora.parts["frozen weights"]
    assert plan_training(sketch, replace(plain, recompute=True)).moments[UPDATE] < update
    assert plan_training(sketch, replace(plain, batch=16)).moments[UPDATE] > 2 * update


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
