"""`causvid play`: a film from its script."""

from pathlib import Path
from typing import Annotated

import typer

from causvid.cli.film import Keeping, OutputOption, play_film
from causvid.cli.options import DeviceOption, ModelOption, Parts, flat, load_pipeline


@flat
def play(
    timeline: Annotated[Path, typer.Argument(help="A film as .toml or .json: its shots, and all that decides it.")],
    output: OutputOption,
    keeping: Keeping,
    parts: Parts,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Play a timeline, written by hand or by --save-script, into a file."""
    keeping.check(output)
    from causvid.generate.timeline import Timeline

    script = Timeline.load(timeline)
    chosen = script.model if model is None else model
    pipeline = load_pipeline(chosen, device, parts)
    play_film(pipeline, script.model_copy(update={"model": chosen}), output, keeping)
