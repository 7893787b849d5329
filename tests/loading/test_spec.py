"""Every loading option is stated once, checked, and survives a way through JSON."""

from pathlib import Path

import pytest
import torch

from causvid.loading.spec import ModelSpec


def test_every_option_has_a_description_and_a_default() -> None:
    assert ModelSpec() == ModelSpec.model_validate({})
    assert all(field.description for field in ModelSpec.model_fields.values())


def test_paths_and_types_become_text_that_json_holds() -> None:
    spec = ModelSpec.model_validate(
        {"model": Path("a") / "b", "lora": "c", "lora_strength": 0.5, "dtype": torch.bfloat16}
    )
    assert (spec.model, spec.dtype) == ("a/b", "bf16")
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_strength": 0.5}, "lora_strength=0.5 needs a LoRA"),
        ({"lora": "a", "lora_strength": float("nan")}, "lora_strength"),
        ({"dtype": torch.int8}, "dtype"),
        ({"text_encoder": "disk"}, "text_encoder"),
        ({"base": "x"}, "base"),
    ],
)
def test_what_cannot_take_effect_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ModelSpec.make(**options)
    assert "\n" not in str(caught.value)
