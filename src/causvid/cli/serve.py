"""`causvid serve`: the studio and the server, on one model."""

import os
from typing import Annotated, Any

import typer

from causvid.cli.options import DeviceOption, Options, Parts, flat, load_pipeline
from causvid.loading.spec import ModelSpec
from causvid.server.settings import ServerSettings


@flat
def serve(
    settings: Annotated[dict[str, Any], Options(ServerSettings, without=("origins",))],
    parts: Parts,
    origin: Annotated[list[str] | None, typer.Option(help="A web origin whose pages may use the server too.")] = None,
    log_format: Annotated[str, typer.Option(help="text or json: a line for every event, on stderr.")] = "text",
    device: DeviceOption = None,
) -> None:
    """Serve live sessions, batch jobs and the studio. The token can also stand in CAUSVID_TOKEN."""
    settings["token"] = settings["token"] or os.environ.get("CAUSVID_TOKEN") or None
    chosen = ServerSettings.make(**settings, origins=tuple(origin or ()))
    if log_format not in ("text", "json"):
        raise ValueError(f"log-format={log_format} is neither text nor json")
    try:
        from causvid.server.run import run
        from causvid.server.security import check_settings
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'causvid[server]'") from None
    check_settings(chosen)
    run(load_pipeline(ModelSpec.make(**parts), device), chosen, log_format="json" if log_format == "json" else "text")
