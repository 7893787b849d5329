"""`causvid serve`: the studio and the server, on one model."""

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
    device: DeviceOption = None,
) -> None:
    """Serve live sessions, batch jobs and the studio."""
    chosen = ServerSettings.make(**settings, origins=tuple(origin or ()))
    try:
        import uvicorn

        from causvid.server.app import create_app
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'causvid[server]'") from None
    pipeline = load_pipeline(ModelSpec.make(**parts), device)
    config = uvicorn.Config(
        create_app(pipeline, chosen),
        host=chosen.host,
        port=chosen.port,
        log_level="info",
        ws="websockets-sansio",
        ws_max_size=2**22,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run()
