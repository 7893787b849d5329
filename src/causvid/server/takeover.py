"""Continue at once what a server that died had open, where several share a folder: its readers find it ready."""

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

from causvid.server.lease import holder
from causvid.server.sessions import Sessions

log = logging.getLogger("causvid.server")
WATCH = 0.2
"""Seconds between two looks at the other servers."""


@dataclass
class Takeover:
    """servers: folder of a file for each server, which it locks while it lives and removes when it stops."""

    sessions: Sessions
    servers: Path
    _alive: set[str] = field(default_factory=set)

    async def watch(self) -> None:
        """Look for servers that died, until cancelled."""
        while True:
            try:
                await self.look()
            except OSError as error:
                log.warning("the other servers cannot be watched: %s", error)
            await asyncio.sleep(WATCH)

    async def look(self) -> None:
        """Take over from those that are gone since the last look."""
        alive = await asyncio.to_thread(self._answering)
        gone, self._alive = self._alive - alive, alive
        for address in gone:
            count = await self.sessions.adopt(address)
            if count:
                log.warning("a server died: %d of its sessions continue here", count)

    def _answering(self) -> set[str]:
        return {address for file in self.servers.iterdir() if (address := holder(file))}
