"""`causvid train`: the recipe, a stage at a time or whole."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from causvid.cli.options import DeviceOption, find_device
from causvid.config import load_preset

Stage = Literal["autoencoder", "classifier", "data", "teacher", "pairs", "ode", "dmd", "all"]


def train(
    stage: Annotated[Stage, typer.Argument(help="A stage of the recipe, or all of them in order.")],
    preset: Annotated[str, typer.Option(help="A preset's name, or a .toml file.")] = "nano",
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/<preset>.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop and checkpoint after so long.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Train a stage; the same command takes up where it was interrupted."""
    folder = out or Path("runs") / load_preset(preset).name
    target = find_device(device)
    from causvid.train import stages

    done = stages.run(stage, preset, folder, max_minutes=max_minutes, device=str(target), seed=seed)
    print(f"{folder}: {stage} is done" if done else f"{folder}: time is up; the same command goes on with {stage}")
