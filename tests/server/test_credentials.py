"""Videos of a server carry their provenance, and a signed statement of it where it has a certificate."""

import asyncio
import datetime
import json
import time
from pathlib import Path

import av
import c2pa
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.server.conftest import Serve, talk

from causvid import cli
from causvid.media.credentials import GENERATED
from causvid.server.settings import ServerSettings

CA, SIGNER = "Test CA", "Test signer"


def write_chain(folder: Path) -> tuple[Path, Path, Path]:
    """Write a chain of certificates, the signer's key, and another key."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in (CA, SIGNER)}
    names = {
        name: x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
        )
        for name in keys
    }
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"),
        False,
    )
    certificates = [
        x509.CertificateBuilder()
        .subject_name(names[name])
        .issuer_name(names[CA])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=name == CA, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, encipher_only=False, decipher_only=False, **usage), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[CA].public_key()), critical=False)
        .sign(keys[CA], hashes.SHA256())
        for name, key in keys.items()
    ]
    pem = serialization.Encoding.PEM
    chain = folder / "chain.pem"
    chain.write_bytes(b"".join(certificate.public_bytes(pem) for certificate in reversed(certificates)))
    files = [folder / f"{name}.key" for name in keys]
    for file, key in zip(files, keys.values(), strict=True):
        file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return chain, files[1], files[0]


def test_jobs_and_exports_are_signed_and_say_how_they_were_made(serve: Serve, tmp_path: Path) -> None:
    chain, key, _ = write_chain(tmp_path)
    with serve(c2pa_certificate=chain, c2pa_key=key) as server:
        order = {"prompt": "a red fish over a lake", "seconds": "1", "seed": 7}
        job = httpx.post(f"{server.url}/v1/videos", json=order).json()
        while (job := httpx.get(f"{server.url}/v1/videos/{job['id']}").json())["status"] != "completed":
            assert job["status"] in ("queued", "in_progress"), job
            time.sleep(0.05)

        async def film() -> str:
            async with talk(server.url) as session:
                await session.say("create", request={"prompt": order["prompt"], "seed": 7})
                opened = await session.until("opened")
                await session.frames(13)
                return str(opened["session"])

        session = asyncio.run(film())
        for name, url in (
            ("job.mp4", f"/v1/videos/{job['id']}/content"),
            ("film.mp4", f"/v1/sessions/{session}/export"),
        ):
            file = tmp_path / name
            file.write_bytes(httpx.get(server.url + url).content)
            with av.open(str(file)) as video:
                comment = json.loads(video.metadata["comment"])
                assert (video.metadata["title"], comment["seed"]) == (order["prompt"], 7)
                assert sum(1 for _ in video.decode(video=0)) >= 12
            said = json.loads(c2pa.Reader(file).json())
            assert said["validation_state"] == "Valid"
            (manifest,) = said["manifests"].values()
            assertions = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
            assert assertions["org.causvid.request"] == comment
            assert assertions["c2pa.actions.v2"]["actions"][0]["digitalSourceType"] == GENERATED
            damaged = tmp_path / f"damaged-{name}"
            damaged.write_bytes(file.read_bytes().replace(b"a red fish", b"a raw fish"))
            assert json.loads(c2pa.Reader(damaged).json())["validation_state"] == "Invalid"


@pytest.mark.parametrize("case", ["one alone", "another's key", "no file", "not text"])
def test_credentials_that_cannot_sign_are_refused_before_the_server_starts(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain, key, other = write_chain(tmp_path)
    noise = tmp_path / "noise.pem"
    noise.write_bytes(bytes(range(256)))
    options = {
        "one alone": ["--c2pa-key", str(key)],
        "another's key": ["--c2pa-certificate", str(chain), "--c2pa-key", str(other)],
        "no file": ["--c2pa-certificate", str(tmp_path / "none.pem"), "--c2pa-key", str(key)],
        "not text": ["--c2pa-certificate", str(noise), "--c2pa-key", str(key)],
    }[case]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", "--folder", str(tmp_path / "server"), *options])
    assert stopped.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "server").exists()


def test_settings_without_credentials_need_no_package() -> None:
    assert ServerSettings.make().credentials is None
