"""The command line: a module here for each group of commands."""

import io
import os
import sys
import traceback
from importlib import import_module

import typer

from causvid.interrupt import terminable

COMMANDS = {
    "generate": ["generate"],
    "video": ["extend", "translate", "play", "decode"],
    "plan": ["plan"],
    "bench": ["bench"],
    "serve": ["serve"],
    "train": ["train"],
    "checkpoints": ["inspect", "convert"],
    "compare": ["compare"],
    "report": ["report"],
}
"""Commands by the module they are in."""
GROUPS = {
    "evaluate": ("Make videos with a model, and judge them.", ["videos", "adherence", "domain", "vbench"]),
    "data": ("Prepare videos to train on.", ["prepare"]),
    "world": ("Look at the built-in world that models are trained on.", ["preview", "words"]),
}
"""Modules whose commands stand behind the module's name."""


def make_app(first: str | None = None) -> typer.Typer:
    """Make the command line; where the first word is a command's, of its module alone: importing all takes time."""
    app = typer.Typer(
        help="Streaming video from a sentence, and the training that makes it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_group)
    known = first in GROUPS or any(first in names for names in COMMANDS.values())
    for module, names in COMMANDS.items():
        for name in names if not known or first in names else ():
            app.command()(getattr(import_module(f"causvid.cli.{module}"), name))
    for module, (text, names) in GROUPS.items():
        if not known or first == module:
            group = typer.Typer(help=text, no_args_is_help=True)
            for name in names:
                group.command()(getattr(import_module(f"causvid.cli.{module}"), name))
            app.add_typer(group, name=module)
    return app


def _group() -> None:
    """Keep a command's name part of the command line where it is the only one."""


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
            given = sys.argv[1:] if arguments is None else arguments
            status = make_app(given[0] if given else None)(arguments, standalone_mode=False)
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
