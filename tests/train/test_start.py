"""A run that begins with a model: what it skips, what it trains further, and a recipe for latents of any origin."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from causvid import cli
from causvid.data.captions import Captions
from causvid.data.plan import Rules
from causvid.data.prepare import prepare
from causvid.data.set_models import SetModels
from causvid.engine.latents import save_latents
from causvid.loading.assemble import load_bundle
from causvid.loading.layout import SETTINGS
from causvid.loading.spec import ModelSpec
from causvid.pipeline import Pipeline
from causvid.preset import Preset
from causvid.train.export import provenance
from causvid.train.loop import take_step, train
from causvid.train.roles import Roles
from causvid.train.run import Run, needed
from causvid.train.stages import STAGES

Start = Callable[..., Preset]
EARLIER = [f"{stage}, earlier run" for stage in ("autoencoder", "classifier", "data", "reader", "teacher", "decoder")]


@pytest.fixture
def start(chain) -> Start:
    """Return the preset `test` begun with the bundle of the finished run."""

    def change(bundle: Path = chain.folder / "bundle", **options: object) -> Preset:
        return Preset.model_validate({**chain.preset.model_dump(), "start": str(bundle), **options})

    return change


def test_stages_whose_result_a_model_has_are_left_out(start: Start) -> None:
    distillation = ("pairs", "ode", "dmd")
    assert needed(start(start_at="pairs")) == ("data", *distillation)
    later = ("data", "reader", "teacher", "decoder", *distillation)
    assert needed(start(start_at="teacher")) == later
    assert needed(start(start_at="autoencoder")) == ("autoencoder", *later)
    assert needed(start(start_at="teacher", world=None, data="latents")) == ("teacher", *distillation)


def test_the_teacher_trains_from_the_weights_of_the_bundle(chain, start: Start, tmp_path: Path) -> None:
    preset, run = start(), Run(tmp_path / "run")
    assert chain.train("data", run.folder, preset)
    modules = STAGES["teacher"](preset, run).modules
    bundle = load_bundle(chain.folder / "bundle")
    for name, module in (("model", bundle.teacher), ("text", bundle.text_encoder)):
        assert module is not None
        for key, value in module.state_dict().items():
            assert torch.equal(modules[name].state_dict()[key], value), key
    assert list(provenance(preset, run)["stages"]) == [*EARLIER, "data"]


def test_the_autoencoder_trains_from_the_weights_of_the_bundle(chain, start: Start, tmp_path: Path) -> None:
    preset = start(start_at="autoencoder")
    state = STAGES["autoencoder"](preset, Run(tmp_path)).modules["model"].state_dict()
    for key, value in load_bundle(chain.folder / "bundle").autoencoder.state_dict().items():
        assert torch.equal(state[key], value), key


def test_a_part_that_is_to_be_trained_is_not_taken_from_the_bundle(start: Start, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `causvid train teacher` first"):
        Roles(start(start_at="teacher"), Run(tmp_path)).teacher()
    assert not Roles(start(start_at="pairs"), Run(tmp_path)).teacher().training


def test_a_teacher_begins_with_the_student_of_a_bundle_without_one(chain, start: Start, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(chain.folder / "bundle", bundle)
    shutil.rmtree(bundle / "teacher")
    state = Roles(start(bundle, start_at="teacher"), Run(tmp_path / "run")).new_teacher().state_dict()
    for key, value in load_bundle(bundle).transformer.state_dict().items():
        assert torch.equal(state[key], value), key


def test_two_earlier_runs_of_a_stage_are_one_sum(chain, start: Start, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(chain.folder / "bundle", bundle)
    settings = json.loads((bundle / SETTINGS).read_text())
    stages = settings["provenance"]["stages"]
    stages["teacher, earlier run"] = {"steps": 7, "minutes": 0.5}
    once = stages["teacher"]["steps"]
    (bundle / SETTINGS).write_text(json.dumps(settings))
    found = provenance(start(bundle), Run(tmp_path / "run"))["stages"]
    assert found["teacher, earlier run"]["steps"] == once + 7


def test_a_bundle_of_another_world_is_refused(start: Start, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="knows other words than the world of preset=test"):
        Roles(start(world="full"), Run(tmp_path)).new_text_encoder()


def test_a_bundle_of_another_size_is_refused_in_one_line(chain, start: Start, tmp_path: Path) -> None:
    own = chain.preset.transformer.ffn_dim
    other = chain.preset.transformer.model_copy(update={"ffn_dim": 64, "predicts": "x0"})
    line = rf"transformer: ffn_dim=64, predicts=x0, but start=.* has ffn_dim={own}, predicts=velocity$"
    with pytest.raises(ValueError, match=line):
        Roles(start(transformer=other, start_at="pairs"), Run(tmp_path)).teacher()


def test_a_student_of_an_earlier_teacher_is_not_passed_off_as_a_later_ones(chain, changed, tmp_path: Path) -> None:
    folder, steps = chain.copy(tmp_path / "run"), chain.preset.recipe.teacher.steps
    for stage in ("pairs", "ode", "dmd"):
        with pytest.raises(
            ValueError, match=rf"teacher_steps={steps + 1}, but .*{stage}.* was started with {steps}: use"
        ):
            train(STAGES[stage](changed("teacher", steps=steps + 1), Run(folder)), Run(folder))


# --- a recipe for latents of any origin


@pytest.fixture
def latents(chain, tmp_path: Path) -> Path:
    """A set of latents with captions, some longer than a clip."""
    folder = tmp_path / "own"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number, frames in enumerate((4, 7, 10, 5)):
        latent = torch.randn(1, frames, 16, 4, 6, generator=generator)
        save_latents(folder / f"{number}.safetensors", latent, fps=chain.preset.generation.fps)
        (folder / f"{number}.txt").write_text(f"clip {number}: a red fish", encoding="utf-8")
    models = SetModels.load(ModelSpec(model=str(chain.folder / "bundle")), torch.device("cpu"))
    out = tmp_path / "latents"
    prepare([folder], out, models, captions=Captions(), rules=Rules(), workers=1, stage=lambda _: lambda done, of: None)
    return out


def write_preset(place: Path, chain, *lines: str) -> Path:
    """Write a preset that extends `test` and begins with its bundle."""
    text = [f'start = "{chain.folder / "bundle"}"', 'extends = "test"', 'name = "mine"', *lines]
    place.write_text("\n".join(text), encoding="utf-8")
    return place


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_a_set_of_latents_and_a_bundle_become_a_student(chain, latents: Path, tmp_path: Path, capsys) -> None:
    preset = write_preset(tmp_path / "mine.toml", chain, 'data = "latents"', 'start_at = "pairs"')
    out = tmp_path / "run"
    assert command("train", "all", "--preset", preset, "--out", out, "--device", "cpu") == 0
    assert capsys.readouterr().out == f"{out}: all is done\n"
    trained = {folder.name for folder in out.iterdir() if (folder / "checkpoint.pt").exists()}
    assert trained == {"pairs", "ode", "dmd"}
    bundle, base = load_bundle(out / "bundle"), load_bundle(chain.folder / "bundle")
    assert bundle.provenance["data"] == "latents" and bundle.provenance["world"] is None
    assert bundle.classifier is not None and bundle.teacher is not None and base.teacher is not None
    for kept, given in ((bundle.teacher, base.teacher), (bundle.autoencoder, base.autoencoder)):
        assert all(torch.equal(value, given.state_dict()[key]) for key, value in kept.state_dict().items())
    assert not torch.equal(bundle.transformer.head.weight, base.transformer.head.weight)
    assert (out / "dmd" / "samples.png").is_file()
    chunks = list(Pipeline.from_pretrained(out / "bundle").stream("a red fish", seconds=1, seed=0))
    assert [len(chunk) for chunk in chunks] == [1, 7]


def contents(file: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return what a file of tensors says; safetensors writes its metadata in any order."""
    with safe_open(file, framework="numpy") as opened:
        tensors = {name: opened.get_tensor(name).tobytes() for name in opened.keys()}  # noqa: SIM118
        return dict(opened.metadata() or {}), tensors


@pytest.mark.parametrize("stage", ["teacher", "pairs", "dmd"])
def test_a_stage_on_a_folder_resumes_as_if_unbroken(stage, chain, latents, start: Start, tmp_path: Path) -> None:
    preset = start(world=None, data=str(latents), start_at="teacher" if stage == "teacher" else "pairs")
    before = () if stage != "dmd" else ("pairs", "ode")
    for place in ("whole", "broken"):
        for earlier in before:
            assert chain.train(earlier, tmp_path / place, preset)
    assert chain.train(stage, tmp_path / "whole", preset)
    while not chain.train(stage, tmp_path / "broken", preset, minutes=0):
        pass
    for file in (tmp_path / "whole").rglob("*.safetensors"):
        other = tmp_path / "broken" / file.relative_to(tmp_path / "whole")
        assert contents(file) == contents(other), file.name


@pytest.mark.parametrize("stage", ["autoencoder", "classifier", "data", "decoder"])
def test_a_stage_that_renders_says_that_it_needs_a_world(stage, chain, latents, start: Start, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset=test has no world to render"):
        chain.train(stage, tmp_path / "run", start(world=None, data=str(latents)))


def test_a_recipe_with_nothing_to_begin_with_says_what_to_run(chain, latents, tmp_path: Path) -> None:
    preset = Preset.model_validate({**chain.preset.model_dump(), "world": None, "data": str(latents)})
    with pytest.raises(ValueError, match="does not train stage autoencoder: set start"):
        chain.train("all", tmp_path / "run", preset)


def test_the_command_line_takes_data_and_start(chain, latents, tmp_path: Path, capsys) -> None:
    common = ("train", "all", "--preset", "test", "--out", tmp_path / "run", "--device", "cpu")
    assert command(*common, "--start-at", "pairs") == 2
    assert "--start-at pairs needs a bundle to begin with: add --start" in capsys.readouterr().err
    arguments = ("--data", latents, "--start", chain.folder / "bundle", "--start-at", "pairs")
    assert command(*common, *arguments, "--max-minutes", "0") == 0
    assert "time is up; the same command resumes all" in capsys.readouterr().out
    assert command(*common, *arguments) == 0
    assert load_bundle(tmp_path / "run" / "bundle").provenance["data"] == "latents"


def test_an_autoencoder_alone_is_trained_further_and_all_else_as_ever(chain, tmp_path):
    place = chain.folder / "bundle" / "vae"
    preset = Preset.model_validate({**chain.preset.model_dump(), "start_autoencoder": str(place)})
    assert needed(preset) == needed(chain.preset)
    stored = load_bundle(chain.folder / "bundle").autoencoder.state_dict()
    stage = STAGES["autoencoder"](preset, Run(tmp_path))
    found = stage.modules["model"].state_dict()
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert all(torch.isfinite(value) for value in take_step(stage, Run(tmp_path), 0).values())


def test_the_command_starts_an_autoencoder_from_its_folder(chain, tmp_path, capsys):
    place = str(chain.folder / "bundle" / "vae")
    options = ["--preset", "test", "--start-autoencoder", place, "--out", tmp_path / "run", "--max-minutes", "0"]
    assert command("train", "autoencoder", *options) == 0
    assert command("train", "teacher", *options) == 2
    assert "--start-autoencoder does not change stage=teacher" in capsys.readouterr().err


def test_a_layer_that_magnifies_is_trained_alone(chain, start: Start, changed, tmp_path: Path) -> None:
    generation = chain.preset.generation
    preset = start(
        start_at="decoder",
        autoencoder=chain.preset.autoencoder_sizes.model_copy(update={"magnify": 2, "enlarge_width": 8}),
        generation=generation.model_copy(update={"height": 2 * generation.height, "width": 2 * generation.width}),
        train=changed("decoder", enlarge_only=True, warmup=1, learning_rate=3e-3, crop=32).train,
    )
    stage = STAGES["decoder"](preset, Run(tmp_path))
    model, before = stage.modules["model"], load_bundle(chain.folder / "bundle").autoencoder.state_dict()
    first, *_, again = [float(take_step(stage, Run(tmp_path), 0)["loss"]) for _ in range(20)]
    assert again < first
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in before.items())
    assert {name.split(".")[0] for name in state.keys() - before.keys()} == {"enlarge"}
