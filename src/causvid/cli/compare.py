"""`causvid compare`: two models side by side on a page for blind votes, and the win rate of what was voted."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[Path | None, typer.Argument(help="Videos of one model, by `causvid evaluate videos`.")] = None,
    b: Annotated[Path | None, typer.Argument(help="Videos of the other: the same prompts and seeds.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for the page.")] = None,
    votes: Annotated[list[Path] | None, typer.Option(help="Count this file of votes instead; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the order and the sides.")] = 0,
) -> None:
    """Write a page that shows two models side by side, blind, or count the votes that it collected."""
    if votes:
        if a or b or output:
            raise ValueError("--votes counts votes: leave out folders and --output")
        from causvid.evaluate.compare import read_votes

        result = read_votes(votes)
        low, high = result.wins.interval
        print(f"A {result.a}, B {result.b}, ties {result.ties}")
        print(f"A wins {result.wins.accuracy:.1%} of {result.wins.count} (95 % interval {low:.1%} to {high:.1%})")
        return
    if a is None or b is None or output is None:
        raise ValueError("expected two folders of videos and --output, or --votes FILE")
    from causvid.evaluate.compare import PAGE, write_page

    print(f"{output / PAGE}: {write_page(a, b, output, seed=seed)} pairs")
