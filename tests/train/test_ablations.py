"""Variants of the recipe differ in what they are named for, leave the run alone, and are measured beside it."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from causvid import cli
from causvid.loading.assemble import load_bundle
from causvid.pipeline import Pipeline
from causvid.seeding import step_generator
from causvid.train import ablations, dmd, objective, ode
from causvid.train.ablations import variants
from causvid.train.export import export_bundle
from causvid.train.run import Run

NAMES = ("no-dmd", "short", "no-ode", "causal-teacher")


def weights(folder: Path) -> dict[str, str]:
    """Return a digest of every file of weights and shard in a run, but those of its variants."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def students(run: Path) -> dict[str, dict[str, str]]:
    return {name: weights(run / "ablations" / name) for name in NAMES}


def without_samples(patch: pytest.MonkeyPatch) -> None:
    """Let students be trained without pictures of what they make, which take longer than the training."""
    for module in (ode, dmd):
        patch.setattr(module, "student_sampler", lambda *_: None)


@pytest.fixture(scope="module")
def ablated(chain, tmp_path_factory) -> Path:
    """A finished run with all its variants."""
    folder = chain.copy(tmp_path_factory.mktemp("ablated") / "run")
    shutil.copytree(chain.folder / "bundle", folder / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("causvid.data.storybook.SHARD", 8)
        without_samples(patch)
        before = weights(folder)
        assert ablations.run("test", folder)
        assert weights(folder) == before
    return folder


def test_every_variant_differs_from_the_recipe_in_one_idea(chain):
    recipe = chain.preset.recipe
    found = {variant.name: variant for variant in variants(chain.preset)}
    assert tuple(found) == NAMES
    for variant in found.values():
        changes = variant.preset.recipe
        assert changes.dmd.steps == recipe.ablations.dmd_steps < recipe.dmd.steps
        assert changes.dmd.start == ("teacher" if variant.name == "no-ode" else "ode")
        assert changes.teacher.causal == (variant.name == "causal-teacher")
        assert (changes.data, changes.pairs, changes.ode) == (recipe.data, recipe.pairs, recipe.ode)
    causal = found["causal-teacher"].preset.recipe.teacher
    assert causal.steps == recipe.ablations.causal_steps and [phase.frames for phase in causal.phases] == [4]
    settings = recipe.model_copy(update={"ablations": recipe.ablations.model_copy(update={"dmd_steps": None})})
    whole = variants(chain.preset.model_copy(update={"train": settings}))
    assert [variant.name for variant in whole] == [name for name in NAMES if name != "short"]
    assert {variant.preset.recipe.dmd.steps for variant in whole} == {recipe.dmd.steps}


# --- the variants of a run


def test_variants_share_files_with_the_run_and_end_in_bundles_that_say_what_they_are(ablated):
    made = {}
    for name in NAMES:
        folder = ablated / "ablations" / name
        assert os.path.samefile(folder / "decoder.safetensors", ablated / "decoder.safetensors")
        assert os.path.samefile(folder / "data" / "shard_0001.safetensors", ablated / "data" / "shard_0001.safetensors")
        made[name] = load_bundle(folder / "bundle")
        assert made[name].teacher is None and made[name].provenance["preset"] == f"test {name}"
    steps = {name: {s: f["steps"] for s, f in made[name].provenance["stages"].items()} for name in NAMES}
    world = {"autoencoder": 4, "classifier": 4, "data": 2, "decoder": 3}
    assert steps["no-dmd"] == {**world, "teacher": 4, "pairs": 2, "ode": 4}
    assert steps["no-ode"] == {**world, "teacher": 4, "dmd": 3}
    assert steps["short"] == {**world, "teacher": 4, "pairs": 2, "ode": 4, "dmd": 3}
    causal = {"teacher, bidirectional": 4, "teacher": 3, "pairs": 2, "ode": 4, "dmd": 3}
    assert steps["causal-teacher"] == {**world, **causal}
    regressed = load_file(ablated / "student_ode.safetensors")
    found = made["no-dmd"].transformer.state_dict()
    assert all(torch.equal(found[key], value.half().float()) for key, value in regressed.items())
    assert len({digest["student.safetensors"] for name, digest in students(ablated).items() if name != "no-dmd"}) == 3


def test_interrupted_ablations_go_on_as_if_they_had_not_been(ablated, chain, tmp_path, monkeypatch):
    folder = chain.copy(tmp_path / "run")
    shutil.copytree(chain.folder / "bundle", folder / "bundle")
    without_samples(monkeypatch)
    with monkeypatch.context() as patch:
        # A file system without second names.
        patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError))
        assert not ablations.run("test", folder, max_minutes=0)
    assert (folder / "ablations" / "no-dmd" / "bundle").is_dir()

    def broken(seed, name, number, *device, part=0):
        if (name, number) == ("dmd/critic/0", 1):
            os.kill(os.getpid(), signal.SIGINT)
        return step_generator(seed, name, number, *device, part=part)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(objective, "step_generator", broken)
        ablations.run("test", folder)
    short = folder / "ablations" / "short"
    assert torch.load(short / "dmd" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not (short / "bundle").exists()
    assert ablations.run("test", folder)
    assert students(folder) == students(ablated)


def test_what_a_run_lacks_or_has_changed_is_said_in_one_line(chain, tmp_path):
    folder = chain.copy(tmp_path / "run")
    (folder / "student_ode.safetensors").unlink()
    with pytest.raises(ValueError, match=r"student_ode\.safetensors is missing: run `causvid train ode` first"):
        ablations.run("test", folder)
    assert not (folder / "ablations").exists()
    shutil.copy(folder / "student.safetensors", folder / "student_ode.safetensors")
    assert not ablations.run("test", folder, max_minutes=0)
    shutil.copy(chain.folder / "student_ode.safetensors", folder / "other")
    os.replace(folder / "other", folder / "student_ode.safetensors")
    with pytest.raises(ValueError, match=r"was borrowed when .*: delete .*no-dmd to train it anew"):
        ablations.run("test", folder)


# --- measured


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def measure(run: Path, output: Path) -> str:
    few = ("--prompts", 2, "--long-prompts", 1, "--long-seconds", 10, "--device", "cpu")
    assert command("evaluate", "ablations", run, "-o", output, *few) == 0
    return (output / "README.md").read_text(encoding="utf-8")


def test_all_rows_are_measured_and_a_missing_one_is_named(ablated, tmp_path, capsys):
    from causvid.evaluate.ablations import TITLES

    text = measure(ablated, tmp_path / "report")
    assert all(f"| {title} |" in text for title in TITLES.values()) and "## Not measured" not in text
    assert f"causvid evaluate ablations {ablated} " in text
    rows = json.loads((tmp_path / "report" / "ablations.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(TITLES)
    assert [row["name"] for row in rows if row["drift"] is None] == ["teacher"]
    capsys.readouterr()

    poor = tmp_path / "poor"
    poor.mkdir()
    shutil.copytree(ablated / "bundle", poor / "bundle")
    shutil.rmtree(poor / "bundle" / "teacher")
    text, told = measure(poor, tmp_path / "poorer"), capsys.readouterr().out
    ask = f"--preset test --out {poor}`"
    for name, stage in (("no-ode", "ablations"), ("causal-teacher", "ablations"), ("teacher", "all")):
        assert f"- {TITLES[name]}: `causvid train {stage} {ask}" in text
        assert f"not measured: {TITLES[name]}" in told
    assert f"| {TITLES['full']} |" in text and f"| {TITLES['no-ode']} |" not in text and TITLES["short"] not in text
    assert command("evaluate", "ablations", tmp_path / "nothing", "-o", tmp_path / "no") == 2
    assert "nothing has no bundle: finish it" in capsys.readouterr().err and not (tmp_path / "no").exists()


# --- the bundle, and what goes with it


def test_a_bundle_without_its_teacher_keeps_what_was_measured_of_both(chain, tmp_path):
    folder = chain.copy(tmp_path / "run")
    out = ("--preset", "test", "--out", folder, "--device", "cpu")
    bundle = folder / "bundle"
    shutil.copytree(chain.folder / "bundle", bundle)
    few = ("--prompts", 2, "--long-prompts", 0, "--device", "cpu", "--card")
    assert command("evaluate", "adherence", "--model", bundle, *few) == 0
    card, measured = (bundle / "README.md").read_text(), json.loads((bundle / "evaluation.json").read_text())
    assert "`teacher/`" in card and measured["teacher"]["steps"] == 4

    assert command("train", "dmd", *out, "--without-teacher") == 0
    card = (bundle / "README.md").read_text()
    assert Pipeline.from_pretrained(bundle).bundle.teacher is None and not (bundle / "teacher").exists()
    assert "`teacher/`" not in card and "| teacher | 4 |" in card and "before it was left out" in card
    assert (bundle / "contact_sheet.png").is_file()

    assert command("train", "dmd", *out) == 0
    assert (bundle / "README.md").read_text().count("left out") == 0
    assert json.loads((bundle / "evaluation.json").read_text()) == measured

    shutil.copy(folder / "student_ode.safetensors", folder / "student.safetensors")
    export_bundle(chain.preset, Run(folder), bundle, with_teacher=False)
    assert not (bundle / "evaluation.json").exists()  # nothing was measured of this one
    assert command("evaluate", "adherence", "--model", bundle, *few) == 0
    assert json.loads((bundle / "evaluation.json").read_text())["teacher"] is None


def test_leaving_the_teacher_out_of_what_is_not_written_is_refused(tmp_path, capsys):
    assert command("train", "ode", "--preset", "test", "--out", tmp_path / "run", "--without-teacher") == 2
    assert "--without-teacher" in capsys.readouterr().err and not (tmp_path / "run").exists()
