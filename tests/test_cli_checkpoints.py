"""The commands that look at weights and rewrite them: a mistake gets one line and exit code 2."""

from pathlib import Path

import pytest
import torch

from causvid.cli import main
from causvid.config import TransformerConfig
from causvid.loading.bundle import save_transformer
from causvid.models.transformer import Transformer

CONFIG = TransformerConfig(dim=128, heads=1, layers=1, ffn_dim=24, text_dim=8, in_channels=4, out_channels=4)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return int(done.value.code or 0)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    save_transformer(tmp_path / "student", Transformer(CONFIG))
    return tmp_path / "student"


def test_a_transformer_is_converted_and_inspected(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = student.parent / "model.pt"
    assert run("convert", student, target, "--to", "causvid", "--dtype", "bf16") == 0
    assert {t.dtype for t in torch.load(target, weights_only=True)["generator"].values()} == {torch.bfloat16}
    assert run("inspect", target) == 0
    said = capsys.readouterr().out
    assert "a Wan transformer" in said and "bfloat16" in said and "generator (" in said


def test_the_built_in_model_is_inspected_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", Path(__file__).parents[1] / "src" / "causvid" / "bundles" / "nano") == 0
    said = capsys.readouterr().out
    assert all(part in said for part in ("transformer", "teacher", "vae", "text_encoder", "classifier"))


def test_mistakes_get_one_line(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (("inspect", student.parent / "nothing.pt"), "nothing.pt does not exist"),
        (("convert", student, student, "--to", "wan"), "exists: choose another"),
        (("convert", student, student.parent / "new", "--to", "bundle"), "base= is missing"),
    ):
        assert run(*arguments) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1, said
    (student / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert run("inspect", student) == 2
