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


def test_every_lora_has_its_own_strength(tmp_path: Path) -> None:
    spec = ModelSpec.make(lora=["a.safetensors", "owner/b:0.5", "c:-2"], lora_strength=0.25)
    assert spec.loras == [("a.safetensors", 0.25), ("owner/b", 0.5), ("c", -2.0)]
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
    assert ModelSpec.make(lora="a").loras == [("a", 1.0)]
    assert ModelSpec.make(lora=[]).loras == []
    (tmp_path / "take:2").touch()
    assert ModelSpec.make(lora=tmp_path / "take:2").loras == [(str(tmp_path / "take:2"), 1.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_strength": 0.5}, "lora_strength=0.5 needs a LoRA"),
        ({"lora": "a", "lora_strength": float("nan")}, "lora_strength"),
        ({"lora": "a:nan"}, "lora=a:nan: its strength is not from -100 to 100"),
        ({"lora": ["a:0.5", "b:-inf"]}, "lora=b:-inf"),
        ({"lora": "a:1e9"}, "lora=a:1e9"),
        ({"lora": "a", "lora_strength": 1e9}, "lora_strength"),
        ({"dtype": torch.int8}, "dtype"),
        ({"text_encoder": "disk"}, "text_encoder"),
        ({"base": "x"}, "base"),
    ],
)
def test_what_cannot_take_effect_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ModelSpec.make(**options)
    assert "\n" not in str(caught.value)
