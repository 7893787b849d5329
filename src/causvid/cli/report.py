"""`causvid report`: a page about a model."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from causvid.cli.early import check_device, check_model
from causvid.cli.options import DeviceOption, ModelOption, load_pipeline, stages
from causvid.opening import open_regular, read_text


def report(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the page; goes on where it stopped.")],
    model: ModelOption = None,
    file: Annotated[Path | None, typer.Option(help="Prompts: one a line, or a JSON list, VBench's too.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="How many of them.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Videos of each prompt.")] = 2,
    seconds: Annotated[float | None, typer.Option(help="Length of a video. Default: that of a training clip.")] = None,
    bench: Annotated[Path | None, typer.Option(help="Also show what `causvid bench --json` wrote here.")] = None,
    device: DeviceOption = None,
) -> None:
    """Write a page about a model: its videos, plots, and every number beside the command that gives it."""
    check_model({"model": model})
    check_device(device)
    for given in (file, bench):
        if given is not None:
            open_regular(given).close()
    try:
        speed = None if bench is None else json.loads(read_text(bench))
    except ValueError:
        raise ValueError(f"bench={bench}: expected what `causvid bench --json` wrote") from None
    from causvid.evaluate.judge import choose_prompts
    from causvid.evaluate.page import PAGE, write_report
    from causvid.evaluate.videos import read_prompts

    same = {"--model": model, "--file": file, "--prompts": prompts, "--seeds": seeds, "--seconds": seconds}
    if file is not None:
        read_prompts(file)  # before the model is loaded, not after
    pipeline = load_pipeline(model, device)
    asked = choose_prompts(pipeline.bundle, file, prompts, seed=0)
    with stages() as stage:
        write_report(
            pipeline,
            asked,
            output,
            command=shlex.join(["causvid", *sys.argv[1:]]),
            chosen=shlex.join(word for name, value in same.items() if value is not None for word in (name, str(value))),
            seeds=seeds,
            seconds=seconds,
            speed=speed,
            progress=stage("videos"),
        )
    print(output / PAGE)
