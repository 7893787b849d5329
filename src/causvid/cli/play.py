"""`causvid play`: a film from its script."""

from pathlib import Path
from typing import Annotated

import typer

from causvid.cli.film import Keeping, OutputOption, play_film
from causvid.cli.options import Parts, flat


@flat
def play(
    timeline: Annotated[Path, typer.Argument(help="A film as .toml or .json: its shots, and all that decides it.")],
    output: OutputOption,
    keeping: Keeping,
    parts: Parts,
) -> None:
    """Play a timeline, written by hand or by --save-script, into a file; options here win over what it says."""
    keeping.check(output)
    from causvid.timeline import Timeline

    script = Timeline.load(timeline)
    parts = parts.over(script)
    pipeline = parts.load()
    play_film(pipeline, script.model_copy(update=parts.named(pipeline)), output, keeping)
