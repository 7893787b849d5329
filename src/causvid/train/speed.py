"""How fast a stage trains: clips a second, and the share of what this machine can do at most."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from causvid.bench.roofline import count_flops, measure_ceilings
from causvid.train.objective import half_is_fast

T = TypeVar("T")
CLIPS, SHARE = "clips_per_second", "of_peak"
TIMES = ("seconds", CLIPS, SHARE)
"""What a row of metrics says that depends on the machine and not on the run."""
SETTLED = 60.0
"""Seconds of training before operations are counted: a short stage is not worth a measurement of the machine."""
RECOUNTED = 10
"""Rows of metrics for which a count serves, if the number of clips stays: a step that is counted is a slow one."""


class Speed:
    """The speed of one process of several."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._begun = self._since = time.monotonic()
        self._clips = 0
        self._plain: list[float] = []
        self._ceiling = 0.0
        self._flops = 0
        self._counted_clips = self._rows = 0

    def take(self, work: Callable[[], T], clips: int, *, counts: bool) -> T:
        """Do a step on so many clips, and return what it returns.

        counts: from time to time also count its operations, by their shapes. What steps before it have taken then says
        how many a second those are, and a large product how many this machine can do.
        """
        self._clips += clips
        began = time.monotonic()
        known = self._flops and clips == self._counted_clips and self._rows < RECOUNTED
        if not counts or known or began - self._begun < SETTLED:
            result = work()
            self._plain.append(time.monotonic() - began)
            return result
        if not self._ceiling:
            dtype = torch.bfloat16 if half_is_fast(self.device) else torch.float32
            self._ceiling = measure_ceilings(self.device, seconds=0.5, dtype=dtype).flops
        found: list[T] = []
        self._flops = count_flops(lambda: found.append(work()))
        self._counted_clips, self._rows = clips, 0
        return found[0]

    def row(self) -> dict[str, float]:
        """Return what is known since the last call."""
        now = time.monotonic()
        row = {CLIPS: round(self._clips / max(now - self._since, 1e-9), 3)} if self._clips else {}
        if self._flops and self._plain:
            row[SHARE] = round(self._flops / statistics.mean(self._plain) / self._ceiling, 4)
            self._plain.clear()
        self._since, self._clips, self._rows = now, 0, self._rows + 1
        return row
