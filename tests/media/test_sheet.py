"""A contact sheet shows videos as they are."""

import numpy as np

from causvid.media import contact_sheet


def clip(frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_a_contact_sheet_shows_first_and_last_frames_in_rows() -> None:
    videos = [clip(9), clip(5), clip(7)]
    sheet = np.asarray(contact_sheet(videos, ["one", "two " * 200, ""], columns=2, stills=3))
    assert np.array_equal(sheet[6:70, 6:102], videos[0][0])
    assert np.array_equal(sheet[6:70, 202:298], videos[0][-1])
    assert np.array_equal(sheet[6 + 100 : 70 + 100, 6:102], videos[2][0])
    assert sheet.shape == (2 * 100 + 6, 2 * (3 * 96 + 2 * 2 + 6) + 6, 3)
