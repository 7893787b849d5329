"""Settings of training are refused where they cannot be meant."""

from typing import Any, get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from causvid.preset import Preset, load_preset
from causvid.recipe import Phase, TrainConfig, required

NAN, INFINITY = float("nan"), float("inf")
STAGES = ("autoencoder", "classifier", "teacher", "decoder", "ode", "dmd")
EVERY = [
    *(("steps", value) for value in (0, -3, 1.5, "many", "5", True, 10**30)),
    *(("accumulate", value) for value in (0, -1, 10**12)),
    *(("learning_rate", value) for value in (-1e-3, NAN, INFINITY, 1e30, "0.1")),
    *(("warmup", value) for value in (-1, 10**12)),
    *(("cooldown", value) for value in (-0.1, 1.1)),
    *(("betas", value) for value in ((0.9, 1.0), (-0.1, 0.9), (0.9,))),
    *(("weight_decay", value) for value in (-1.0, NAN)),
    *(("max_norm", value) for value in (0.0, -1.0, INFINITY)),
]
SOME = [
    ("autoencoder", "frames", 8),
    ("autoencoder", "frames", 0),
    ("autoencoder", "pool", -1),
    ("autoencoder", "ema", 1.0),
    ("autoencoder", "noise", -0.1),
    ("classifier", "frames", 5),
    ("classifier", "batch", 0),
    ("data", "clips", 0),
    ("data", "clips", 10**12),
    ("data", "batch", 10**9),
    ("autoencoder", "crop", 10**12),
    ("dmd", "guidance", INFINITY),
    ("data", "batch", 0),
    ("teacher", "image", 1.5),
    ("teacher", "drop_prompt", -0.1),
    ("teacher", "phases", ()),
    ("teacher", "phases", [{"frames": 0, "batch": 1, "until": 1.0}]),
    ("teacher", "phases", [{"frames": 1, "batch": 0, "until": 1.0}]),
    ("decoder", "strength", 0.0),
    ("decoder", "euler_steps", 0),
    ("decoder", "frames", 10),
    ("pairs", "clips", -1),
    ("pairs", "batch", 0),
    ("pairs", "steps", 0),
    ("ode", "clean_past", 2.0),
    ("dmd", "critic_updates", 0),
    ("dmd", "critic_learning_rate", -1.0),
    ("dmd", "guidance", 0.0),
    ("dmd", "student_input", "noise"),
]


def changed(stage: str, name: str, value: Any) -> dict[str, Any]:
    settings = load_preset("test").model_dump()
    settings["train"][stage][name] = value
    return settings


@pytest.mark.parametrize("stage", ["ode", "dmd"])
def test_muon_is_refused_where_a_lora_is_trained(stage: str) -> None:
    settings = changed(stage, "optimizer", "muon")
    Preset.model_validate(settings)
    settings["train"][stage]["lora"] = {"rank": 4}
    with pytest.raises(ValidationError, match="optimizer=muon is for whole matrices"):
        Preset.model_validate(settings)


@pytest.mark.parametrize(("stage", "name", "value"), [*((s, *case) for s in STAGES for case in EVERY), *SOME])
def test_a_setting_out_of_its_bounds_is_refused_by_name(stage: str, name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=rf"train\.{stage}\b(.|\n)*{name}"):
        Preset.model_validate(changed(stage, name, value))


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("autoencoder", "learning_rate", 0.0),
        ("autoencoder", "frames", 1),
        ("classifier", "frames", 9),
        ("teacher", "warmup", 0),
        ("teacher", "cooldown", 1.0),
        ("data", "clips", 1),
        ("dmd", "accumulate", 64),
    ],
)
def test_the_smallest_meaningful_settings_are_accepted(stage: str, name: str, value: Any) -> None:
    settings = Preset.model_validate(changed(stage, name, value))
    assert getattr(getattr(settings.recipe, stage), name) == value


def test_a_stage_without_settings_says_what_to_add() -> None:
    with pytest.raises(ValueError, match=r"stage=decoder has no settings: add \[train\.decoder\] to the preset"):
        required(None, "decoder")


def numbers(settings: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """List the fields of a group of settings that are numbers."""
    fields = settings.model_fields.items()
    return [(f"{settings.__name__}.{name}", field) for name, field in fields if field.annotation in (int, float)]


def test_every_number_has_a_bound_on_both_sides() -> None:
    groups = [Phase, *(get_args(field.annotation)[0] for field in TrainConfig.model_fields.values())]
    found = [one for group in groups for one in numbers(group)]
    for name, field in found:
        bounds = {type(bound) for bound in field.metadata}
        assert bounds & {Ge, Gt} and bounds & {Le, Lt}, name
    assert len(found) > 60
