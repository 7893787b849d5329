"""`causvid train`: the recipe, a stage at a time or whole."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from causvid.cli.options import DeviceOption, find_device
from causvid.preset import load_preset

Stage = Literal["autoencoder", "classifier", "data", "teacher", "decoder", "pairs", "ode", "dmd", "all"]


def train(
    stage: Annotated[Stage, typer.Argument(help="A stage of the recipe, or all in order.")],
    preset: Annotated[str, typer.Option(help="A preset's name, or a .toml file.")] = "nano",
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/<preset>.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop and checkpoint after so long.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything random.")] = 0,
    device: DeviceOption = None,
    start: Annotated[
        Path | None, typer.Option(help="Begin a new run from this bundle, training its teacher on.")
    ] = None,
    start_at: Annotated[
        Literal["autoencoder", "teacher"], typer.Option(help="With --start: the first part of it to train on.")
    ] = "teacher",
    unpack: Annotated[Path | None, typer.Option(help="Begin with the parcel in this folder.")] = None,
    pack: Annotated[Path | None, typer.Option(help="End by writing a parcel of what later stages need here.")] = None,
    parcel_mib: Annotated[float, typer.Option(min=1, help="How large a parcel may be.")] = 64,
    without_teacher: Annotated[
        bool, typer.Option("--without-teacher", help="With stage dmd or all: leave it out of the bundle.")
    ] = False,
) -> None:
    """Train a stage; the same command takes up where it was interrupted.

    A parcel carries a run to another machine: a few files of at most 16 MiB, without what can be made again.
    """
    if without_teacher and stage not in ("dmd", "all"):
        raise ValueError(f"--without-teacher is about the bundle, which stage={stage} does not write: use dmd or all")
    folder = out or Path("runs") / load_preset(preset).name
    target = find_device(device)
    from causvid.train import handoff, stages

    if start is not None:
        stages.check_folder(folder)
        stages.start(start, preset, folder, at=start_at)
    if unpack is not None:
        stages.check_folder(folder)
        handoff.unpack(unpack, folder)
    try:
        done = stages.run(
            stage,
            preset,
            folder,
            max_minutes=max_minutes,
            device=str(target),
            seed=seed,
            with_teacher=not without_teacher,
        )
    except KeyboardInterrupt:
        print(f"stopped: the same command goes on with {stage} from its last checkpoint", file=sys.stderr)
        raise
    print(f"{folder}: {stage} is done" if done else f"{folder}: time is up; the same command goes on with {stage}")
    if pack is not None:
        files = handoff.pack(folder, pack, limit=int(parcel_mib * handoff.MIB))
        print(f"{pack}: {len(files)} files, {sum(file.stat().st_size for file in files) / handoff.MIB:.1f} MiB")
