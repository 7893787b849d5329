"""Whole frames from interlaced ones, whose odd and even lines were filmed at different moments."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import Graph

FILTER, OPTIONS = "yadif", "mode=send_frame:deint=interlaced"


class Deinterlacer:
    """Frames in, as many frames out; those marked as interlaced come out without combs, the others as they are."""

    def __init__(self) -> None:
        """Start with nothing to do."""
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None

    def give(self, frame: "VideoFrame") -> Iterator["VideoFrame"]:
        """Take a frame and yield what is ready: from the first interlaced one on, each comes a frame later."""
        kind = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and kind != self._kind:
            yield from self.end()
        if self._graph is None:
            if not frame.interlaced_frame:
                yield frame
                return
            self._graph, self._kind = _graph(frame), kind
        self._graph.push(frame)
        yield from self._ready()

    def end(self) -> Iterator["VideoFrame"]:
        """Yield what is left."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph = None

    def _ready(self) -> Iterator["VideoFrame"]:
        import av

        while self._graph is not None:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, av.VideoFrame)
            yield frame


def _graph(frame: "VideoFrame") -> "Graph":
    import av

    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add(FILTER, OPTIONS), graph.add("buffersink")).configure()
    return graph
