"""What a server measures about itself, for Prometheus: https://prometheus.io/docs/instrumenting/exposition_formats/."""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from causvid.server.live import LiveSession
from causvid.server.protocol import Timings
from causvid.server.sessions import Sessions

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)
Jobs = Callable[[], Mapping[str, int]]


class Metrics:
    """Counts and times. jobs: returns how many batch jobs have each status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs: Jobs = dict

        def histogram(name: str, what: str) -> Histogram:
            return Histogram(f"causvid_{name}_seconds", what, buckets=BUCKETS, registry=self.registry)

        self.first_frame = histogram("first_frame", "From the start of a session to its first chunk, encoded.")
        self.chunk = histogram("chunk", "Making a batch of chunks.")
        self.waited = histogram("chunk_wait", "Waiting for the model before a chunk.")
        self.encoded = histogram("encode", "Encoding a chunk and keeping it.")
        self.effect = histogram("prompt_effect", "From a change to the end of the first chunk under it, encoded.")
        self.frames = Counter("causvid_frames", "Frames made for live sessions.", registry=self.registry)
        self.dropped = Counter("causvid_dropped_connections", "WebSockets that were lost.", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def watch(self, sessions: Sessions) -> None:
        """Show the sessions, too."""
        self.registry.register(_Now(sessions, self))

    def delivered(self, session: LiveSession, timings: Timings) -> None:
        """Count a chunk; any thread."""
        piece = session.film.pieces[-1]
        self.frames.inc(len(piece.sizes))
        self.chunk.observe(timings.made)
        self.waited.observe(timings.waited)
        self.encoded.observe(timings.encoded)
        if timings.effect is not None:
            self.effect.observe(timings.effect)
        header = session.journal.header
        if piece.position == 0 and header.parent is None and session.rewinds == 0:
            self.first_frame.observe(max(0.0, time.time() - header.created))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Now(Collector):
    """What is read at the moment of a scrape."""

    def __init__(self, sessions: Sessions, metrics: Metrics) -> None:
        self._sessions, self._metrics = sessions, metrics

    def collect(self) -> Iterable[Metric]:
        sessions, scheduler = self._sessions, self._sessions.shared.scheduler
        held = list(sessions.open.values())
        states = GaugeMetricFamily("causvid_sessions", "Open sessions by state.", labels=["state"])
        tally = Tally(session.state for session in held)
        for state in ("playing", "paused", "ended"):
            states.add_metric([state], tally[state])
        yield states
        jobs = GaugeMetricFamily("causvid_jobs", "Batch jobs by status.", labels=["status"])
        for status, count in self._metrics.jobs().items():
            jobs.add_metric([status], count)
        yield jobs
        for name, what, value in (
            ("places", "Sessions that may be open at once.", sessions.places),
            ("queue", "Sessions that wait for a place.", len(sessions.waiting)),
            ("readers", "Connections that read a session.", sum(session.readers for session in held)),
            ("turns_waiting", "Sessions and jobs that wait for the model.", scheduler.waiting),
            ("points_bytes", "Memory of the points to rewind to.", sum(session.points.size for session in held)),
        ):
            yield GaugeMetricFamily(f"causvid_{name}", what, value=value)
        yield CounterMetricFamily(
            "causvid_model_busy_seconds", "Time the model computed; its rate is the busy share.", scheduler.busy_seconds
        )
