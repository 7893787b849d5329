"""`import causvid` is quick and finds every public name when it is used; mistakes are refused before torch loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import causvid

HEAVY = ("torch", "diffusers", "transformers", "av", "tokenizers")
REFUSE = """
import sys
from causvid.cli import main
try:
    main(sys.argv[1:])
except SystemExit as error:
    print(error.code, [name for name in {heavy} if name in sys.modules])
"""


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import causvid, sys; assert causvid.__version__ and not {set(HEAVY)} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        "generate --seconds 0 x -o a.mp4",
        "generate --dream x -o a.mp4",
        "generate -o a.mp4",
        "generate --seed -1 x -o a.mp4",
        "generate x -o a.avi",
        "generate x -o a.mp4 --latents a.pt",
        "generate x -o a.mp4 --save-timeline a.yaml",
        "generate x -o a.mp4 --image absent.png",
        "generate x -o a.mp4 --lora-strength 0.5",
        "generate x -o a.mp4 --model .",
        "generate x -o a.mp4 --student absent.pt",
        "generate ? -o a.mp4",
        "extend absent.mp4 x -o a.mp4",
        "translate absent.mp4 x -o a.mp4",
        "play absent.toml -o a.mp4",
        "play late.toml -o a.mp4",
        "decode absent.safetensors -o a.mp4",
        "plan --gpu much",
        "train teacher --preset absent",
        "generate x -o a.mp4 --image text.png",
        "generate x -o a.mp4 --lora text.safetensors",
        "generate x -o a.mp4 --lora empty.safetensors:0.5",
        "generate x -o a.mp4 --student text.pt",
        "generate x -o a.mp4 --tiny-autoencoder pipe",
        "generate x -o a.mp4 --device banana",
        "extend text.safetensors x -o a.mp4",
        "play source.toml -o a.mp4",
        "decode empty.safetensors -o a.mp4",
        "inspect text.pt",
        "inspect pipe",
        "inspect absent",
        "convert text.pt b --to wan",
        "evaluate adherence .",
        "evaluate videos -o a --file absent.txt",
        "evaluate videos -o a --model absent",
        "plan --model absent",
        "bench --values 3",
    ],
)
def test_a_mistake_is_refused_before_torch_is_imported(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "late.toml").write_text('seconds = 1\nshots = [{at = 3, prompt = "x"}]')
    (tmp_path / "source.toml").write_text('seconds = 1\nafter = "absent.mp4"\nshots = [{at = 0, prompt = "x"}]')
    (tmp_path / "empty.safetensors").touch()
    for name in ("text.png", "text.safetensors", "text.pt"):
        (tmp_path / name).write_text("hello " * 99)
    os.mkfifo(tmp_path / "pipe")
    code = REFUSE.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == "2 []\n"


def test_loading_the_built_in_model_imports_no_compiler() -> None:
    code = "import causvid, sys; causvid.Pipeline.from_pretrained(); print({*sys.modules} & {'torch._dynamo', 'sympy'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", causvid.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(causvid, name) is not None
    assert name in dir(causvid)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = causvid.Pipelin
