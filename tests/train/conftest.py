"""One run of the whole recipe at the smallest size, which the tests of this folder share and do not change."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from causvid.data import storybook
from causvid.preset import Preset, load_preset
from causvid.train import autoencoder, stages
from causvid.train.loop import Stage, take_step
from causvid.train.run import Run, deadline_in
from causvid.worlds.storybook import Scene

RESULTS = {
    "autoencoder": ("autoencoder.safetensors",),
    "classifier": ("classifier_model/config.json", "classifier_model/model.safetensors"),
    "data": ("data/shard_0000.safetensors", "data/shard_0001.safetensors"),
    "reader": ("reader.safetensors",),
    "teacher": ("teacher.safetensors", "text_encoder/model.safetensors"),
    "decoder": ("decoder.safetensors",),
    "pairs": ("pairs/shard_0000.safetensors", "pairs/shard_0001.safetensors"),
    "ode": ("student_ode.safetensors",),
    "dmd": ("student.safetensors",),
}


@dataclass(frozen=True)
class Chain:
    """A finished run; `scenes` are those that its store was rendered from."""

    folder: Path
    preset: Preset
    scenes: tuple[Scene, ...]

    def results(self, stage: str, folder: Path | None = None) -> dict[str, dict[str, Tensor]]:
        """Read what a stage of this run, or of one in another folder, hands on."""
        place = self.folder if folder is None else folder
        return {name: load_file(place / name) for name in RESULTS[stage] if name.endswith(".safetensors")}

    def copy(self, folder: Path, *, without: tuple[str, ...] = (), checkpoints: bool = True) -> Path:
        """Copy the run, as if the stages in `without` had never been started; a bundle is not copied."""
        left_out = {*without, *(name for stage in without for name in RESULTS[stage])}
        if "classifier" in without:
            left_out.add("classifier_model")
        parts = {"bundle", "tensorboard"} if checkpoints else {"bundle", "tensorboard", "checkpoint.pt"}

        def ignore(place: str, names: list[str]) -> set[str]:
            inside = Path(place).relative_to(self.folder)
            return {name for name in names if str(inside / name) in left_out or name in parts}

        shutil.copytree(self.folder, folder, ignore=ignore)
        return folder

    def run(self) -> Run:
        """Return the run, for stages that are built and stepped by hand."""
        return Run(self.folder)

    def build(self, stage: str, preset: Preset | None = None) -> Stage:
        """Make a stage of the run, to be stepped by hand."""
        return stages.STAGES[stage](preset or self.preset, self.run())

    def step(self, stage: Stage, n: int = 0) -> dict[str, Tensor]:
        """Take a step of a stage."""
        return take_step(stage, self.run(), n)

    @staticmethod
    def train(
        stage: str, folder: Path, preset: str | Preset = "test", *, minutes: float | None = None, seed: int = 0
    ) -> bool:
        """Run a stage, or all, in another folder."""
        settings = load_preset(preset) if isinstance(preset, str) else preset
        return stages.run(stage, settings, Run(folder, seed=seed, deadline=deadline_in(minutes)))


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Several shards of few clips, and few clips for the principal components."""
    patch.setattr(storybook, "SHARD", 8)
    patch.setattr(autoencoder, "SHORTCUT_CLIPS", 24)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder, preset = tmp_path_factory.mktemp("chain") / "run", load_preset("test")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        assert stages.run("all", preset, Run(folder))
        scenes = storybook.stored_scenes(preset, folder / "data")
    yield Chain(folder, preset, tuple(scenes))


@pytest.fixture
def changed(chain: Chain) -> Callable[..., Preset]:
    """Return the preset `test` with other settings of one stage."""

    def change(stage: str, **settings: Any) -> Preset:
        recipe = chain.preset.recipe
        other = type(getattr(recipe, stage)).model_validate({**getattr(recipe, stage).model_dump(), **settings})
        return chain.preset.model_copy(update={"train": recipe.model_copy(update={stage: other})})

    return change
