"""Variants of the recipe differ in what they are named for, leave the run alone, and are measured beside it."""

import hashlib
from pathlib import Path

import pytest

from causvid.loading.assemble import load_bundle
from causvid.preset import load_preset
from causvid.train import dmd, ode, stages
from causvid.train.run import Run

NAMES = ("no-dmd", "short", "no-ode", "causal-teacher")
STEPS = {"causal_steps": 3, "dmd_steps": 3}


def weights(folder: Path) -> dict[str, str]:
    """Return a digest of every file of weights and shard in a run, but those of its variants."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_every_variant_differs_in_one_idea() -> None:
    import ablations

    preset = load_preset("test")
    recipe = preset.recipe
    found = {variant.name: variant.preset.recipe for variant in ablations.variants(preset, **STEPS)}
    assert tuple(found) == NAMES
    for name, changed in found.items():
        assert changed.dmd is not None and changed.teacher is not None
        assert changed.dmd.steps == 3 and changed.dmd.start == ("teacher" if name == "no-ode" else "ode")
        assert changed.teacher.causal == (name == "causal-teacher")
        assert (changed.data, changed.pairs, changed.ode) == (recipe.data, recipe.pairs, recipe.ode)
    whole = ablations.variants(preset, causal_steps=3, dmd_steps=None)
    assert [variant.name for variant in whole] == [name for name in NAMES if name != "short"]


@pytest.mark.slow
def test_variants_are_trained_and_measured_beside_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ablations

    for module in (ode, dmd):  # pictures of what students make take longer than their training
        monkeypatch.setattr(module, "student_sampler", lambda *_, **__: None)
    folder = tmp_path / "run"
    assert stages.run("all", load_preset("test"), Run(folder))
    before = weights(folder)
    ablations.train(folder, preset="test", **STEPS, max_minutes=0, device="cpu")
    assert [path.name for path in (folder / "ablations").glob("*/bundle")] == ["bundle"]  # that which trains nothing
    ablations.train(folder, preset="test", **STEPS, device="cpu")
    assert weights(folder) == before
    made = {name: load_bundle(folder / "ablations" / name / "bundle").provenance for name in NAMES}
    steps = {name: {stage: facts["steps"] for stage, facts in made[name]["stages"].items()} for name in NAMES}
    world = {"autoencoder": 4, "classifier": 4, "data": 1, "reader": 4, "decoder": 3}
    assert steps["no-dmd"] == {**world, "teacher": 4, "pairs": 2, "ode": 4}
    assert steps["no-ode"] == {**world, "teacher": 4, "dmd": 3}
    assert steps["short"] == {**world, "teacher": 4, "pairs": 2, "ode": 4, "dmd": 3}
    causal = {"teacher, bidirectional": 4, "teacher": 3, "pairs": 2, "ode": 4, "dmd": 3}
    assert steps["causal-teacher"] == {**world, **causal}

    monkeypatch.setattr(ablations, "LONG_PROMPTS", 1)
    monkeypatch.setattr(ablations, "LONG_SECONDS", 10.0)
    ablations.evaluate(folder, tmp_path / "report", prompts=2, device="cpu")
    text = (tmp_path / "report" / "README.md").read_text()
    assert all(f"| {title} |" in text for title in ("renders", *ablations.TITLES.values()))


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    import ablations

    with pytest.raises(ValueError, match="finish the run"):
        ablations.train(tmp_path, preset="test")
    with pytest.raises(ValueError, match="has no bundle"):
        ablations.evaluate(tmp_path, tmp_path / "report")
