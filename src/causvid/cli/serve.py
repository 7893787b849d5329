"""`causvid serve`: the studio and the server, on one model."""

import os
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from causvid.cli.options import DeviceOption, Options, Parts, find_device, flat, load_pipeline
from causvid.loading.spec import ModelSpec
from causvid.server.settings import ServerSettings


@flat
def serve(
    settings: Annotated[dict[str, Any], Options(ServerSettings, without=("origins",))],
    parts: Parts,
    origin: Annotated[list[str] | None, typer.Option(help="A web origin whose pages may use the server too.")] = None,
    log_format: Annotated[str, typer.Option(help="text or json: a line for every event, on stderr.")] = "text",
    ray: Annotated[bool, typer.Option("--ray", help="Serve by replicas of Ray Serve that share the folder.")] = False,
    replicas: Annotated[int | None, typer.Option(min=1, help="Replicas of Ray Serve, one a device.")] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="Most of them, as sessions come.")] = None,
    device: DeviceOption = None,
) -> None:
    """Serve live sessions, batch jobs and the studio. The token can also stand in CAUSVID_TOKEN."""
    if not ray and (replicas, max_replicas) != (None, None):
        raise ValueError("replicas and max-replicas need --ray")
    settings["token"] = settings["token"] or os.environ.get("CAUSVID_TOKEN") or None
    chosen = ServerSettings.make(**settings, origins=tuple(origin or ()))
    if log_format not in ("text", "json"):
        raise ValueError(f"log-format={log_format} is neither text nor json")
    try:
        from causvid.server.logs import LogFormat
        from causvid.server.run import run
        from causvid.server.security import check_settings
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'causvid[server]'") from None
    check_settings(chosen)
    form: LogFormat = "json" if log_format == "json" else "text"
    spec = ModelSpec.make(**parts)
    if not ray:
        run(load_pipeline(spec, device), chosen, log_format=form)
        return
    if find_spec("ray") is None:
        raise ValueError("ray is missing: pip install 'causvid[ray]'")
    from causvid.server.replicas import Fleet, run_replicas

    fleet = Fleet.make(replicas=replicas or 1, most=max_replicas)
    run_replicas(spec, chosen, fleet, device=find_device(device).type, log_format=form)
