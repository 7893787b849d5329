"""Colours of video that sRGB does not have: HDR (PQ, HLG) and wide gamuts, brought to what an ordinary screen shows.

Sources: ITU-R BT.2100 (PQ and HLG), BT.2408 (203 cd/m² is white), BT.2020, SMPTE EG 432-1 (P3). What is brighter than
white or outside of sRGB's gamut is clipped.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame

_WHITE, _PQ_PEAK, _HLG_PEAK = 203.0, 10_000.0, 1000.0
_PQ, _HLG = 16, 18
# Numbers as in ITU-T H.273: of transfers, of primaries (with how much of each makes red, green and blue of BT.709).
_TO_BT709 = {
    9: ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730)),
    12: ((1.224940, -0.224940, 0.0), (-0.042057, 1.042057, 0.0), (-0.019638, -0.078636, 1.098274)),
}
_BT2020_LUMA = (0.2627, 0.6780, 0.0593)


def is_wide(frame: "VideoFrame") -> bool:
    """Return whether a frame's colours are other than an ordinary screen's."""
    return int(frame.color_trc) in (_PQ, _HLG) or int(frame.color_primaries) in _TO_BT709


def to_srgb(pixels: NDArray[np.uint16], *, transfer: int, primaries: int) -> NDArray[np.uint8]:
    """Convert a frame's RGB of 16 bits, [H, W, 3], to sRGB of 8 bits; transfer and primaries as in H.273."""
    hdr = transfer in (_PQ, _HLG)
    signal = np.linspace(0, 1, 2**16, dtype=np.float32)
    curve = _pq(signal) if transfer == _PQ else _hlg(signal) if transfer == _HLG else signal**2.4
    matrix = np.array(_TO_BT709.get(9 if hdr and primaries not in _TO_BT709 else primaries, np.eye(3)), np.float32)
    encode = _srgb if hdr else _gamma
    shown = np.empty(pixels.shape, np.uint8)
    rows = max(1, 2**20 // max(1, pixels.shape[1]))
    for start in range(0, len(pixels), rows):  # in bands: a frame of floating-point numbers is large
        linear = curve[pixels[start : start + rows]]
        if transfer == _HLG:  # a screen brightens what is bright: BT.2100's OOTF with its gamma of 1.2
            luma = linear @ np.array(_BT2020_LUMA, np.float32)
            linear = linear * np.power(luma, 0.2, where=luma > 0, out=np.zeros_like(luma))[..., None]
            linear = linear * (_HLG_PEAK / _WHITE)
        shown[start : start + rows] = np.round(255 * encode(np.clip(linear @ matrix.T, 0, 1)))
    return shown


def _pq(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return light, 1 being white."""
    power = signal.astype(np.float64) ** (1 / 78.84375)
    light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return (light * (_PQ_PEAK / _WHITE)).astype(np.float32)


def _hlg(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the light of the scene, from 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


def _srgb(light: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _gamma(light: NDArray[np.float32]) -> NDArray[np.float32]:
    return light ** np.float32(1 / 2.4)
