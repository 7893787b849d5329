"""A run that begins where a bundle ended."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from causvid.loading.assemble import load_bundle
from causvid.loading.layout import SETTINGS
from causvid.train import stages
from causvid.train.autoencoder import autoencoder_stage
from causvid.train.export import provenance
from causvid.train.loop import Run
from causvid.train.start import start_from
from causvid.train.teacher import teacher_stage


def test_the_teacher_of_a_run_begun_from_a_bundle_starts_from_its_weights(chain, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    start_from(chain.folder / "bundle", chain.preset, run)
    assert stages.run("data", chain.preset.name, run.folder)
    stage = teacher_stage(chain.preset, run)
    bundle = load_bundle(chain.folder / "bundle")
    for name, module in (("model", bundle.teacher), ("text", bundle.text_encoder)):
        assert module is not None
        state = stage.state[name].state_dict()
        for key, value in module.state_dict().items():
            assert torch.equal(state[key], value), key
    told = provenance(chain.preset, run)["stages"]
    assert list(told) == [
        "autoencoder, earlier run",
        "classifier, earlier run",
        "data, earlier run",
        "teacher, earlier run",
        "decoder, earlier run",
        "data",
    ]


def test_an_autoencoder_that_is_trained_on_starts_from_the_bundle_and_its_stage_is_not_passed_over(
    chain, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    start_from(chain.folder / "bundle", chain.preset, run, at="autoencoder")
    assert not (run.folder / "autoencoder.safetensors").exists()
    state = autoencoder_stage(chain.preset, run).state["model"].state_dict()
    for key, value in load_bundle(chain.folder / "bundle").autoencoder.state_dict().items():
        assert torch.equal(state[key], value), key
    assert stages.run("autoencoder", chain.preset.name, run.folder)
    told = provenance(chain.preset, run)["stages"]
    assert told["autoencoder"]["steps"] == chain.preset.recipe.autoencoder.steps


def test_what_two_earlier_runs_spent_on_a_stage_is_told_as_one_sum(chain, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(chain.folder / "bundle", bundle)
    settings = json.loads((bundle / SETTINGS).read_text())
    told = settings["provenance"]["stages"]
    told["teacher, earlier run"] = {"steps": 7, "minutes": 0.5}
    once = told["teacher"]["steps"]
    (bundle / SETTINGS).write_text(json.dumps(settings))
    run = Run(tmp_path / "run")
    start_from(bundle, chain.preset, run)
    assert provenance(chain.preset, run)["stages"]["teacher, earlier run"]["steps"] == once + 7


def test_a_run_that_has_begun_is_not_started_again(chain, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match="is not empty"):
        start_from(chain.folder / "bundle", chain.preset, Run(tmp_path))


def test_a_bundle_of_another_world_is_refused(chain, tmp_path: Path) -> None:
    other = chain.preset.model_copy(update={"world": "full"})
    with pytest.raises(ValueError, match="knows other words"):
        start_from(chain.folder / "bundle", other, Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
