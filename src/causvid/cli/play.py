"""`causvid play`: a video from its timeline."""

from pathlib import Path
from typing import Annotated

import typer

from causvid.cli.options import DeviceOption, Parts, flat
from causvid.cli.output import Keeping, OutputOption, load, named, play_timeline


@flat
def play(
    timeline: Annotated[Path, typer.Argument(help="A timeline as .toml or .json: its shots, and all that decides it.")],
    output: OutputOption,
    keeping: Keeping,
    parts: Parts,
    device: DeviceOption = None,
) -> None:
    """Play a timeline, written by hand or by --save-timeline, into a file; options here win over what it says."""
    keeping.check(output)
    from causvid.timeline import Timeline

    script = Timeline.load(timeline)
    parts = {name: getattr(script, name) if value is None else value for name, value in parts.items()}
    pipeline = load(parts, device)
    play_timeline(pipeline, script.model_copy(update=named(parts, pipeline)), output, keeping)
