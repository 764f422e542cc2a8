"""Time stamps that begin anew -> time that goes on. MPEG-TS and MPEG-PS files are often several that were joined."""

from fractions import Fraction

import numpy as np

MAX_GAP = 10.0  # seconds between two frames of a broadcast, beyond which ffmpeg's programs see a new beginning
MAX_DISORDER = (
    0.5  # seconds by which time stamps may go back though nothing begins anew
)


class Clock:
    """Adds up the time between time stamps that come in order.

    time_base: seconds of a unit; frame_seconds: between frames, where the time stamps do not tell; is_broadcast:
    whether the time stamps of the format may jump ahead where no time passes.

    restarts: how often they have begun anew so far.
    """

    def __init__(
        self, time_base: Fraction, frame_seconds: float, is_broadcast: bool
    ) -> None:
        self.restarts = 0
        self._time = 0
        self._first: int | None = None  # since they last began anew
        self._last = 0
        self._step = max(1, round(frame_seconds / time_base))
        self._max_disorder = float(MAX_DISORDER / time_base)
        self._max_gap = float(MAX_GAP / time_base)
        self._is_broadcast = is_broadcast

    def times(self, stamps: np.ndarray) -> np.ndarray:
        """int64, the times of these stamps, at least one; `advance` is called only where there may be restarts."""
        gaps = np.diff(stamps)
        has_jump = self._is_broadcast and (gaps > self._max_gap).any()
        if has_jump or (gaps < 0).any():
            return np.array([self.advance(stamp) for stamp in stamps.tolist()])
        return stamps - stamps[0]

    def advance(self, stamp: int) -> int:
        """The time of `stamp`, in units after the first."""
        if self._first is None:
            self._first = self._last = stamp
        gap = stamp - self._last
        if self._is_restart(stamp, gap):
            self.restarts += 1
            self._first = stamp
            gap = self._step
        elif gap > 0:
            self._step = gap
        self._last = stamp
        self._time += gap
        return self._time

    def _is_restart(self, stamp: int, gap: int) -> bool:
        assert self._first is not None
        if gap < 0:
            return stamp <= self._first or -gap > self._max_disorder
        return self._is_broadcast and gap > self._max_gap
