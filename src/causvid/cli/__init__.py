"""The command line: a module here for each group of commands."""

import io
import os
import sys
import traceback

import typer

from causvid.cli import bench, checkpoints, compare, data, evaluate, generate, plan, serve, train, video, world
from causvid.interrupt import terminable

app = typer.Typer(
    help="Streaming video from a sentence, and the training that makes it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
evaluate_app = typer.Typer(help="Make videos with a model, and judge them.", no_args_is_help=True)
data_app = typer.Typer(help="Prepare videos to train on.", no_args_is_help=True)
world_app = typer.Typer(help="Look at the built-in world that models are trained on.", no_args_is_help=True)
app.command()(generate.generate)
app.command()(video.extend)
app.command()(video.translate)
app.command()(video.play)
app.command()(video.decode)
app.command()(plan.plan)
app.command()(bench.bench)
app.command()(serve.serve)
app.command()(train.train)
app.command()(checkpoints.inspect)
app.command()(checkpoints.convert)
app.command()(compare.compare)
app.add_typer(evaluate_app, name="evaluate")
evaluate_app.command()(evaluate.videos)
evaluate_app.command()(evaluate.adherence)
evaluate_app.command()(evaluate.domain)
app.add_typer(data_app, name="data")
data_app.command()(data.prepare)
evaluate_app.command()(evaluate.vbench)
app.add_typer(world_app, name="world")
world_app.command()(world.preview)
world_app.command()(world.words)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 when done, 2 on a user's mistake, which gets one line, 130 after
    Ctrl-C or SIGTERM.

    CAUSVID_DEBUG=1 shows where an error was raised.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not have every letter of a name
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            status = app(arguments, standalone_mode=False)
    except (typer.TyperException, ValueError, OSError) as error:
        if os.environ.get("CAUSVID_DEBUG") == "1":
            traceback.print_exc()
        line = _one_line(error)
        if line:  # it is empty where typer has shown its help instead
            print(f"error: {line}", file=sys.stderr)
        status = 2
    sys.exit(status if isinstance(status, int) else 0)


def _one_line(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())
