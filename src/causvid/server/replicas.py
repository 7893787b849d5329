"""The same server as replicas of Ray Serve: one a device, sharing a folder.

Serve starts, places, scales and replaces the replicas, and its proxy spreads new sessions: an open WebSocket is an
ongoing request, so that the least loaded gets the next and the number of sessions decides the number of replicas.
A session stays with its replica by the lease in its folder, and a reader that arrives elsewhere is passed on. Where the
replica is gone, so is the lease, and the next that is asked continues the session from its saved state.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import Field, PositiveInt

from causvid.config import Settings
from causvid.loading.spec import ModelSpec
from causvid.pipeline import Pipeline
from causvid.server.app import create_app
from causvid.server.logs import LogFormat, configure
from causvid.server.run import GRACE, MESSAGE_BYTES
from causvid.server.security import check_settings, is_loopback
from causvid.server.settings import ServerSettings

log = logging.getLogger("causvid.server")
NAME = "causvid"
ONGOING = 4096
"""Requests that a replica has at most; how many are sessions is its own decision."""
FILL = 0.8
"""Of its sessions, what a replica has before another is started."""


class Fleet(Settings):
    """How many replicas there are. most: up to which their number follows the sessions; None: it is fixed."""

    replicas: PositiveInt = Field(default=1)
    most: PositiveInt | None = None

    def options(self, settings: ServerSettings, *, gpu: bool) -> dict[str, Any]:
        """Return the options of the deployment.

        Raises:
            ValueError: if `most` is less than `replicas`, or nobody said how many sessions fill a replica.
        """
        device = {"num_cpus": 1, "num_gpus": 1} if gpu else {"num_cpus": 1}
        common = {
            "name": NAME,
            "ray_actor_options": device,
            "max_ongoing_requests": ONGOING,
            "graceful_shutdown_timeout_s": GRACE,
            "health_check_period_s": 2,
            "health_check_timeout_s": 10,
        }
        if self.most is None:
            return {**common, "num_replicas": self.replicas}
        if self.most < self.replicas:
            raise ValueError(f"max_replicas={self.most} is less than replicas={self.replicas}")
        if settings.sessions is None:
            raise ValueError("max_replicas needs sessions: how many fill a replica")
        scaling = {
            "min_replicas": self.replicas,
            "max_replicas": self.most,
            "target_ongoing_requests": FILL * settings.sessions,
        }
        return {**common, "autoscaling_config": scaling}


def application(pipeline: Pipeline, settings: ServerSettings) -> FastAPI:
    """Return the server of a replica: `create_app`, which other replicas also reach at an address of its own."""
    host = "127.0.0.1" if is_loopback(settings.host) else _own_address()
    listener = socket.create_server((host, 0))
    app = create_app(pipeline, settings, address=f"http://{host}:{listener.getsockname()[1]}")
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        timeout_graceful_shutdown=GRACE,
    )
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[Any]:
        server = uvicorn.Server(config)
        async with inner(served) as state:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield state
            finally:
                server.should_exit = True
                await serving

    app.router.lifespan_context = lifespan
    return app


def bind(spec: ModelSpec, settings: ServerSettings, fleet: Fleet, *, device: str, log_format: LogFormat) -> Any:
    """Return Serve's application, for `serve.run`.

    Raises:
        ValueError: if the settings cannot be used.
    """
    from ray import serve

    check_settings(settings)
    options = fleet.options(settings, gpu=device.startswith("cuda"))
    settings = settings.model_copy(update={"folder": settings.folder.absolute()})

    def build() -> FastAPI:
        import torch

        configure(log_format)
        return application(Pipeline.from_pretrained(spec, device=torch.device(device)), settings)

    return serve.deployment(**options)(serve.ingress(build)()).bind()


def from_config(args: dict[str, Any]) -> Any:
    """Return Serve's application for a configuration file: `import_path: causvid.server.replicas:from_config`.

    args: fields of `ServerSettings`; `fleet`, those of `Fleet`; `model`, those of `ModelSpec`; `device`, cpu or cuda.
    The token stands in CAUSVID_TOKEN.

    Raises:
        ValueError: if a value cannot be used.
    """
    rest = dict(args)
    fleet, spec = Fleet.make(**rest.pop("fleet", {})), ModelSpec.make(**rest.pop("model", {}))
    device = rest.pop("device", "cpu")
    settings = ServerSettings.make(**{"token": os.environ.get("CAUSVID_TOKEN") or None, **rest})
    return bind(spec, settings, fleet, device=device, log_format="json")


def run_replicas(
    spec: ModelSpec, settings: ServerSettings, fleet: Fleet, *, device: str, log_format: LogFormat
) -> None:
    """Serve until a signal comes, on the cluster of RAY_ADDRESS or on one that begins here.

    Raises:
        ValueError: if the settings cannot be used.
    """
    # Ray's processes read it when they start: on a busy machine the proxy takes longer than the 5 s of the default.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    import ray
    from ray import serve

    configure(log_format)
    application = bind(spec, settings, fleet, device=device, log_format=log_format)
    ray.init(address=os.environ.get("RAY_ADDRESS"), logging_level=logging.WARNING, include_dashboard=False)
    serve.start(http_options={"host": settings.host, "port": settings.port}, logging_config={"log_level": "WARNING"})
    serve.run(application, name=NAME, route_prefix="/")
    log.info("listening on http://%s:%d", settings.host, settings.port)
    try:
        while True:
            time.sleep(3600)
    finally:
        serve.delete(NAME)


def _own_address() -> str:
    """Return the address at which other machines of the cluster reach this one."""
    import ray

    return str(ray.util.get_node_ip_address())
