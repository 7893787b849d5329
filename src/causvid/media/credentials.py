"""Content Credentials (C2PA): a signed statement inside a video file that a model made it, and how.

Needs the extra `c2pa`. What verifies it is whoever trusts the certificate's issuer.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from causvid.media.writer import VideoWriter
from causvid.opening import read_text
from causvid.staging import staging

LARGEST = 2**20
ALGORITHMS = ("es256", "ps256", "ed25519", "es384", "es512", "ps384", "ps512")
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media that a trained model made."""


@dataclass(frozen=True)
class Credentials:
    """What files are signed with: a chain of certificates, its own first, and the private key, both as PEM."""

    certificate: str
    key: str
    algorithm: str

    @classmethod
    def load(cls, certificate: Path, key: Path) -> "Credentials":
        """Read certificate and key, and find the algorithm that they are for.

        Raises:
            ValueError: if a file cannot be read, they do not fit each other, or the extra is missing.
        """
        if find_spec("c2pa") is None:
            raise ValueError("signing needs the extra c2pa: pip install 'causvid[c2pa]'")
        try:
            chain, secret = (read_text(path, most=LARGEST) for path in (certificate, key))
        except OSError as error:
            raise ValueError(f"credentials: {error}") from None
        refused = ""
        for algorithm in ALGORITHMS:
            found = cls(chain, secret, algorithm)
            try:
                found._try()
            except ValueError as error:
                refused = refused or str(error)
            else:
                return found
        raise ValueError(f"{certificate} and {key} cannot sign: {refused}")

    def _try(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "trial.mp4"
            with VideoWriter(video, fps=1, height=16, width=16) as writer:
                writer.write(np.zeros((1, 16, 16, 3), np.uint8))
            self.sign(video, {"title": "", "comment": "{}"})

    def sign(self, video: Path, tags: Mapping[str, str]) -> None:
        """Put a signed statement into an MP4 file, which appears whole or stays as it is.

        Raises:
            ValueError: if the certificate may not sign content.
        """
        import c2pa

        made: dict[str, Any] = {"action": "c2pa.created", "digitalSourceType": GENERATED}
        manifest = {
            "claim_generator_info": [{"name": "causvid"}],
            "title": tags["title"],
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [made]}},
                {"label": "org.causvid.request", "data": json.loads(tags["comment"])},
            ],
        }
        info = c2pa.C2paSignerInfo(self.algorithm, self.certificate.encode(), self.key.encode(), None)
        try:
            with c2pa.Signer.from_info(info) as signer, staging(video.parent) as folder:
                c2pa.Builder(manifest).sign_file(video, folder / video.name, signer)
                os.replace(folder / video.name, video)
        except c2pa.C2paError as error:
            raise ValueError(f"{video.name} cannot be signed: {error}") from None
