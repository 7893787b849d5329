"""`causvid train`: the recipe, a stage at a time or whole."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from causvid.cli.options import DeviceOption, find_device
from causvid.preset import StartAt, load_preset
from causvid.recipe import cut

Follower = Literal["tensorboard", "wandb", "trackio"]
Stage = Literal["autoencoder", "classifier", "data", "reader", "teacher", "decoder", "pairs", "ode", "dmd", "all"]


def train(
    stage: Annotated[Stage, typer.Argument(help="A stage of the recipe, or all that the preset needs, in order.")],
    preset: Annotated[str, typer.Option(help="A preset's name, or a .toml file.")] = "nano",
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/<preset>.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop and checkpoint after so long.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything random.")] = 0,
    device: DeviceOption = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile transformers, for long runs. Default: with cuda."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Train on this set, which `causvid data prepare` made.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="A bundle to begin with. Default: as the preset says, or from nothing.")
    ] = None,
    start_at: Annotated[
        StartAt | None,
        typer.Option(help="With --start: the first stage that trains; what earlier ones train is the bundle's."),
    ] = None,
    start_autoencoder: Annotated[
        Path | None,
        typer.Option(help="With stage autoencoder or all: begin with this tiny autoencoder, a folder or a file."),
    ] = None,
    micro_batches: Annotated[
        int | None,
        typer.Option(min=1, help="Cut the clips of every step into so many parts: the processes share them."),
    ] = None,
    log: Annotated[
        Follower | None, typer.Option(help="Who draws the curves. Default: tensorboard, where it is installed.")
    ] = None,
    sequence_parallel: Annotated[
        int, typer.Option(min=1, help="So many neighbouring processes share a clip: each has part of the tokens.")
    ] = 1,
    without_teacher: Annotated[
        bool, typer.Option("--without-teacher", help="With stage dmd or all: leave it out of the bundle.")
    ] = False,
) -> None:
    """Train a stage; the same command resumes where it was interrupted.

    Under torchrun, the processes share a step's micro-batches and the weights of transformers.
    """
    if without_teacher and stage not in ("dmd", "all"):
        raise ValueError(f"--without-teacher is about the bundle, which stage={stage} does not write: use dmd or all")
    settings = load_preset(preset)
    if start_at is not None and start is None and settings.start is None:
        raise ValueError(f"--start-at {start_at} needs a bundle to begin with: add --start")
    if start_autoencoder is not None and stage not in ("autoencoder", "all"):
        raise ValueError(f"--start-autoencoder does not change stage={stage}: use autoencoder or all")
    changes = {
        "start": start and str(start),
        "start_at": start_at,
        "start_autoencoder": start_autoencoder and str(start_autoencoder),
        "data": data and str(data),
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = settings.model_copy(update=changes if data is None else {**changes, "world": None})
    if micro_batches is not None:
        settings = settings.model_copy(update={"train": cut(settings.recipe, micro_batches)})
    folder = out or Path("runs") / settings.name

    from causvid.train import stages
    from causvid.train.curves import check_follower
    from causvid.train.distributed import processes
    from causvid.train.run import Run, deadline_in

    check_follower(log)
    if compiled and sequence_parallel > 1:
        raise ValueError(f"--compile does not go with --sequence-parallel {sequence_parallel}")
    with processes(find_device(device)) as (ranks, own):
        end, ranks = deadline_in(max_minutes), replace(ranks, together=sequence_parallel)
        where = Run(folder, seed=seed, device=own, deadline=end, compiled=compiled, ranks=ranks, log=log)
        try:
            done = stages.run(stage, settings, where, with_teacher=not without_teacher)
        except KeyboardInterrupt:
            if ranks.is_main:
                print(f"stopped: the same command resumes {stage} from its last checkpoint", file=sys.stderr)
            raise
    if ranks.is_main:
        print(f"{folder}: {stage} is done" if done else f"{folder}: time is up; the same command resumes {stage}")
