"""A student trained as LoRA: the base stays as it is, the run resumes as if unbroken, and others read the files."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from causvid.engine.memory import peak_with_gradients
from causvid.loading.lora import merge_lora, read_lora
from causvid.loading.names import to_foreign
from causvid.loading.wan_config import to_diffusers_config
from causvid.models.transformer import Transformer
from causvid.preset import Preset
from causvid.recipe import LoraStage
from causvid.train.lora import train_lora
from causvid.train.roles import Roles
from causvid.train.run import Run, save_weights
from causvid.train.stages import STAGES

pytest.importorskip("peft")


@pytest.fixture
def preset(chain) -> Preset:
    """The preset `test` with LoRA in both stages of the student."""
    values = chain.preset.model_dump()
    for stage in ("ode", "dmd"):
        values["train"][stage] |= {"lora": {"rank": 4, "alpha": 6}, "learning_rate": 1e-2}
    return Preset.model_validate(values)


@pytest.fixture
def trained(chain, preset: Preset, tmp_path: Path) -> Path:
    """A run whose student is a LoRA of both stages."""
    folder = chain.copy(tmp_path / "run", without=("ode", "dmd"))
    for stage in ("ode", "dmd"):
        assert chain.train(stage, folder, preset)
    return folder


def test_roles_share_the_frozen_weights(chain, preset: Preset) -> None:
    roles, lora = Roles(preset, chain.run()), LoraStage(rank=4)
    teacher, critic, student = roles.teacher(), roles.critic(lora), roles.student("teacher", lora)
    own = {p.data_ptr() for p in teacher.parameters()}
    for role in (critic, student):
        frozen = {p.data_ptr() for p in role.model.parameters() if not p.requires_grad}
        assert frozen == own and all(p.requires_grad for p in role.weights.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    starts = [next(role.weights.parameters()) for role in (critic, student)]
    assert not torch.equal(*starts)


def test_the_student_is_the_teacher_and_its_lora(trained: Path, preset: Preset) -> None:
    teacher = Roles(preset, Run(trained)).teacher()
    student = load_file(trained / "student.safetensors")
    assert not all(torch.equal(value, student[name]) for name, value in teacher.state_dict().items())
    for file in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        merged = Transformer(preset.transformer)
        merged.load_state_dict(teacher.state_dict())
        merge_lora(merged, read_lora(trained / "student_lora" / file))
        for name, value in merged.state_dict().items():
            torch.testing.assert_close(value, student[name], rtol=0, atol=1e-6, msg=name)


def test_the_student_is_merged_and_sampled_without_a_second_one(
    chain, trained: Path, preset: Preset, tmp_path: Path
) -> None:
    roles = Roles(preset, chain.run())
    student = roles.student("teacher", LoraStage(rank=4, alpha=6))
    with torch.no_grad():
        for parameter in student.weights.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    own = Roles(preset, Run(tmp_path))
    wrote = peak_with_gradients(lambda: own.save_student("dmd", student, student.weights.state_dict()))
    merged = copy.deepcopy(roles.teacher())
    merge_lora(merged, read_lora(tmp_path / "student_lora" / "adapter_model.safetensors"))
    save_weights(merged.state_dict(), tmp_path / "whole")
    assert (tmp_path / "student.safetensors").read_bytes() == (tmp_path / "whole").read_bytes()
    sizes = [tensor.nbytes for tensor in merged.state_dict().values()]
    assert wrote < 5 * max(sizes) < sum(sizes)

    stage = STAGES["dmd"](preset, Run(trained))
    sampled = stage.objectives[1].modules["student"]
    before = {name: value.clone() for name, value in sampled.state_dict().items()}
    assert stage.sample is not None
    stage.sample(tmp_path, 1)
    assert all(torch.equal(value, before[name]) for name, value in sampled.state_dict().items())


def test_an_interrupted_lora_resumes_as_if_unbroken(chain, trained: Path, preset: Preset, tmp_path: Path) -> None:
    broken = chain.copy(tmp_path / "broken", without=("ode", "dmd"))
    for stage in ("ode", "dmd"):
        while not chain.train(stage, broken, preset, minutes=0):
            pass
    for name in ("student_ode_lora/adapter_model", "student_lora/adapter_model", "student"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (trained, broken))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    parts = torch.load(trained / "dmd" / "checkpoint.pt", weights_only=True)["state"]
    assert {name.rsplit("/", 2)[1] for name in parts["student"]} == {"default"}  # the frozen weights are not stored


def test_peft_opens_the_lora_over_diffusers_transformer(trained: Path, preset: Preset) -> None:
    from diffusers import WanTransformer3DModel
    from peft import PeftModel

    roles = Roles(preset, Run(trained))
    teacher, student = roles.teacher(), roles.transformer("dmd").eval()
    settings = {k: v for k, v in to_diffusers_config(preset.transformer).items() if k != "_class_name"}

    def other() -> nn.Module:
        model = WanTransformer3DModel(**settings).eval()
        model.load_state_dict(to_foreign(teacher.state_dict(), preset.transformer, "diffusers"))
        return model

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 16, 4, 6, generator=generator)
    text, sigma = torch.randn(1, 5, 32, generator=generator), torch.full((1, 3), 0.7)
    by_diffusers = other()
    by_diffusers.load_lora_adapter(trained / "student_lora", weight_name="pytorch_lora_weights.safetensors")  # type: ignore[operator]
    with torch.no_grad():
        expected = student(x, sigma, student.encode_text(text))
        before = teacher(x, sigma, teacher.encode_text(text))
        for model in (PeftModel.from_pretrained(other(), str(trained / "student_lora")), by_diffusers):
            found = model(x.transpose(1, 2), torch.tensor([700.0]), text, return_dict=False)[0].transpose(1, 2)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (expected - before).abs().max() > 1e-2


def test_another_rank_after_ode_is_refused(chain, trained: Path, preset: Preset) -> None:
    recipe = preset.recipe
    assert recipe.dmd is not None
    other = recipe.model_copy(update={"dmd": recipe.dmd.model_copy(update={"lora": LoraStage(rank=2)})})
    shutil.rmtree(trained / "dmd")
    with pytest.raises(ValueError, match=r"the LoRA of stage ode has \[4, \d+\] .* needs the same lora.rank"):
        chain.train("dmd", trained, preset.model_copy(update={"train": other}))


def test_a_new_lora_changes_nothing(chain, preset: Preset) -> None:
    teacher = Roles(preset, chain.run()).teacher()
    lora = train_lora(teacher, LoraStage(rank=2), torch.Generator().manual_seed(0))
    own = teacher.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in lora.read(lora.weights.state_dict())(list(own)))
