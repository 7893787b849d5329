"""The recipe as a chain: it ends in a model that streams, can be broken off anywhere, and says what it lacks."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from causvid import cli
from causvid.data import storybook
from causvid.evaluate.classifier import AttributeClassifier
from causvid.pipeline import Pipeline
from causvid.seeding import step_generator
from causvid.train import objective, ode
from causvid.train.speed import TIMES

STEPS = {"autoencoder": 4, "classifier": 4, "data": 2, "reader": 4, "teacher": 4}
STEPS |= {"decoder": 3, "pairs": 2, "ode": 4, "dmd": 4}


def same(a: Any, b: Any) -> bool:
    """Compare nested states bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def checkpoint(folder: Path, stage: str) -> dict[str, Any]:
    return torch.load(folder / stage / "checkpoint.pt", weights_only=True)


def metrics(folder: Path, stage: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def interrupt_at(step: int, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of a step."""

    pressed: list[int] = []

    def drawn(seed: int, name: str, number: int, *device: torch.device | str, part: int = 0) -> torch.Generator:
        if (name.split("/")[0], number) == (stage, step) and not pressed:
            pressed.append(step)
            signal.raise_signal(signal.SIGINT)
        return step_generator(seed, name, number, *device, part=part)

    for module in (objective, storybook, ode):
        monkeypatch.setattr(module, "step_generator", drawn)


def test_the_chain_ends_with_a_bundle_that_streams(chain):
    pipeline = Pipeline.from_pretrained(chain.folder / "bundle")
    chunks = list(pipeline.stream("a red fish swims in the snow", seconds=3, seed=1))
    assert [len(chunk) for chunk in chunks] == [1, 12, 11]  # the third is longer than the model was ever trained for
    assert all(chunk.dtype == torch.uint8 and chunk.shape[1:] == (32, 48, 3) for chunk in chunks)
    again = list(pipeline.stream("a red fish swims in the snow", seconds=3, seed=1))
    assert all(map(torch.equal, chunks, again))
    whole = pipeline.teach(["a red fish swims in the snow"], seeds=[0], steps=2)
    assert whole.shape == (1, 13, 32, 48, 3)


def test_the_bundle_holds_what_was_trained(chain):
    bundle = Pipeline.from_pretrained(chain.folder / "bundle").bundle
    assert bundle.teacher is not None and bundle.classifier is not None
    for model, name in (
        (bundle.transformer, "student"),
        (bundle.teacher, "teacher"),
        (bundle.autoencoder, "decoder"),
        (bundle.text_encoder.encoder, "text_encoder/model"),
    ):
        weights = load_file(chain.folder / f"{name}.safetensors")
        assert same(
            {key: t.half().float() for key, t in weights.items()}, {key: model.state_dict()[key] for key in weights}
        )
    assert AttributeClassifier.load(bundle.classifier).vocabularies["subject"]
    assert bundle.provenance["preset"] == "test"
    assert {name: stage["steps"] for name, stage in bundle.provenance["stages"].items()} == STEPS


def test_every_stage_logs_every_step_and_leaves_samples_to_look_at(chain):
    for stage, steps in STEPS.items():
        assert [row["step"] for row in metrics(chain.folder, stage)] == list(range(1, steps + 1))
        assert checkpoint(chain.folder, stage)["step"] == steps
        assert list((chain.folder / stage / "tensorboard").iterdir())
    for stage in ("autoencoder", "teacher", "decoder", "ode", "dmd"):
        assert (chain.folder / stage / "samples.png").stat().st_size > 1000
    assert not list(chain.folder.rglob("*.partial"))


def test_a_finished_run_has_nothing_left_to_do(chain, tmp_path, capsys):
    folder = chain.copy(tmp_path / "run")
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "all", "--preset", "test", "--out", str(folder), "--device", "cpu"])
    assert not end.value.code
    assert capsys.readouterr().out == f"{folder}: all is done\n"
    for stage in STEPS:
        assert metrics(folder, stage) == metrics(chain.folder, stage)
        assert same(chain.results(stage, folder), chain.results(stage))
        assert checkpoint(folder, stage)["seconds"] == checkpoint(chain.folder, stage)["seconds"]


@pytest.mark.parametrize("stage", [*STEPS, "dmd on data, accumulated"])
def test_a_stage_broken_off_twice_is_the_unbroken_one_bit_for_bit(stage, chain, tmp_path, monkeypatch):
    preset, whole = "test", chain.folder
    if stage == "dmd on data, accumulated":
        stage, preset, whole = "dmd", str(tmp_path / "on_data.toml"), tmp_path / "whole"
        text = (resources.files("causvid") / "presets" / "test.toml").read_text(encoding="utf-8")
        assert '"rollout"' in text
        Path(preset).write_text(text.replace('"rollout"', '"data"\naccumulate = 2'), encoding="utf-8")
        assert chain.train(stage, chain.copy(whole, without=("dmd",)), preset)
        assert not same(chain.results(stage, whole), chain.results(stage))
    folder = chain.copy(tmp_path / "run", without=(stage,))

    assert not chain.train(stage, folder, preset, minutes=0)
    assert checkpoint(folder, stage)["step"] == 1
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(1, stage, patch)
        chain.train(stage, folder, preset)
    assert checkpoint(folder, stage)["step"] == 2
    assert chain.train(stage, folder, preset)

    assert same(chain.results(stage, folder), chain.results(stage, whole))
    assert same(checkpoint(folder, stage)["state"], checkpoint(whole, stage)["state"])
    assert metrics(folder, stage) == metrics(whole, stage)


def test_the_whole_chain_resumes_where_it_was_interrupted(chain, tmp_path, monkeypatch, capsys):
    folder = chain.copy(tmp_path / "run", without=("ode", "dmd"))
    command = ["train", "all", "--preset", "test", "--out", str(folder), "--device", "cpu"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        interrupt_at(2, "ode", patch)
        cli.main(command)
    assert end.value.code == 130
    assert "stopped: the same command resumes" in capsys.readouterr().err
    assert checkpoint(folder, "ode")["step"] == 3 and not (folder / "dmd").exists()
    assert chain.train("all", folder)
    assert same(chain.results("dmd", folder), chain.results("dmd"))
    assert Pipeline.from_pretrained(folder / "bundle").bundle.provenance["stages"]["ode"]["steps"] == STEPS["ode"]


NEEDS = [
    ("data", "autoencoder.safetensors", "autoencoder"),
    ("teacher", "data/shard_0001.safetensors", "data"),
    ("teacher", "autoencoder.safetensors", "autoencoder"),
    ("pairs", "data/shard_0000.safetensors", "data"),
    ("pairs", "teacher.safetensors", "teacher"),
    ("decoder", "autoencoder.safetensors", "autoencoder"),
    ("decoder", "teacher.safetensors", "teacher"),
    ("ode", "pairs/shard_0001.safetensors", "pairs"),
    ("ode", "teacher.safetensors", "teacher"),
    ("dmd", "student_ode.safetensors", "ode"),
    ("dmd", "teacher.safetensors", "teacher"),
]


@pytest.fixture
def refusal(chain, tmp_path) -> Callable[[str], str]:
    """Start a stage in `tmp_path / "run"` that must refuse in one line."""
    chain.copy(tmp_path / "run", without=("decoder",), checkpoints=False)

    def start(stage: str, folder: Path = tmp_path / "run") -> str:
        with pytest.raises(ValueError) as error:
            chain.train(stage, folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    return start


@pytest.mark.parametrize(("stage", "name", "made_by"), NEEDS)
def test_a_lost_or_damaged_result_of_an_earlier_stage_is_named_with_the_stage_to_run(
    stage, name, made_by, tmp_path, refusal
):
    file = tmp_path / "run" / name
    whole = file.read_bytes()
    for broken in (whole[:-1], b""):
        file.write_bytes(broken)
        assert f"{file} is damaged" in (line := refusal(stage)) and f"run `causvid train {made_by}` again" in line
    file.unlink()
    assert f"{file} is missing: run `causvid train {made_by}` first" in refusal(stage)


@pytest.mark.parametrize(
    ("stage", "made_by"), [("data", "autoencoder"), ("teacher", "data"), ("pairs", "data"), ("ode", "pairs")]
)
def test_a_stage_that_is_started_first_names_the_one_before_it(stage, made_by, tmp_path, refusal):
    assert f"run `causvid train {made_by}` first" in refusal(stage, tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_weights_of_another_size_are_refused(tmp_path, refusal):
    shutil.copy(tmp_path / "run" / "autoencoder.safetensors", tmp_path / "run" / "teacher.safetensors")
    assert "teacher.safetensors does not fit the preset" in refusal("ode")


def test_the_last_stage_succeeds_without_a_classifier_and_says_how_to_get_the_bundle(chain, tmp_path, capsys):
    folder = chain.copy(tmp_path / "run", without=("classifier",))
    assert chain.train("dmd", folder)
    assert "no bundle yet: run `causvid train classifier`" in capsys.readouterr().err
    assert not (folder / "bundle").exists()
    assert chain.train("classifier", folder) and chain.train("dmd", folder)
    assert Pipeline.from_pretrained(folder / "bundle").bundle.classifier is not None


def test_a_run_can_be_lengthened_but_not_otherwise_changed(chain, tmp_path):
    folder, preset = chain.copy(tmp_path / "run"), tmp_path / "other.toml"
    text = (resources.files("causvid") / "presets" / "test.toml").read_text(encoding="utf-8")
    place = text.index("[train.teacher]")

    def run(old: str, new: str, seed: int = 0) -> bool:
        assert old in text[place:]
        preset.write_text(text[:place] + text[place:].replace(old, new, 1), encoding="utf-8")
        return chain.train("teacher", folder, str(preset), seed=seed)

    with pytest.raises(ValueError, match=r"learning_rate=0\.01, but .*teacher/checkpoint\.pt was started with 0\.001"):
        run("learning_rate = 1e-3", "learning_rate = 1e-2")
    with pytest.raises(ValueError, match="phases="):
        run("batch = 8", "batch = 7")
    with pytest.raises(ValueError, match="seed=1, but "):
        run("steps = 4", "steps = 4", seed=1)
    assert run("until = 0.5", "until = 0.6") and run("steps = 4", "steps = 5")
    assert checkpoint(folder, "teacher")["step"] == 5


@pytest.mark.parametrize("stage", ["data", "pairs", "teacher"])
def test_a_finished_stage_run_again_brings_back_what_was_lost_or_damaged(stage, chain, tmp_path):
    folder = chain.copy(tmp_path / "run")
    first, second = (folder / name for name in chain.results(stage))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-3])
    assert chain.train(stage, folder)
    assert same(chain.results(stage, folder), chain.results(stage))


def test_mistakes_get_one_line_and_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    text = (resources.files("causvid") / "presets" / "test.toml").read_text(encoding="utf-8")
    (tmp_path / "published.toml").write_text(text[: text.index("[train.autoencoder]")], encoding="utf-8")

    def line(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main(["train", "all", "--device", "cpu", "--preset", "test", *arguments])
        assert end.value.code == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "published.toml"]
        return err

    assert "preset=nonesuch is not known; choose from" in line("--preset", "nonesuch")
    assert "published.toml" not in (err := line("--preset", "published.toml")) and "has no training settings" in err
    assert "out=file: " in line("--out", "file")
    assert "is not a folder that can be written to" in line("--out", "file/below/it")
    assert "--max-minutes" in line("--max-minutes", "-1")
    assert "--seed" in line("--seed", str(2**31))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert "out=locked/run: " in line("--out", "locked/run")
