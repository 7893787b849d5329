"""Video and images, in and out."""

from causvid.media.clock import BrokenClock
from causvid.media.image import Fit, fit_frame, read_image
from causvid.media.reader import Probe, probe, read_video
from causvid.media.sheet import contact_sheet
from causvid.media.writer import VideoWriter, to_bytes

__all__ = [
    "BrokenClock",
    "Fit",
    "Probe",
    "VideoWriter",
    "contact_sheet",
    "fit_frame",
    "probe",
    "read_image",
    "read_video",
    "to_bytes",
]
