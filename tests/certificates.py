"""Certificates for tests: an authority, and what it signs, expires and revokes."""

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority; its own certificate is `certificate`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        made = self._builder(self._name, self._key.public_key(), now - DAY, now + DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        signing = {"digital_signature": True, "key_cert_sign": True, "crl_sign": True}
        more = {"encipher_only": False, "decipher_only": False}
        made = made.add_extension(x509.KeyUsage(**usage, **signing, **more), critical=True)
        self.certificate = self._write(f"{name}.crt", _pem(made.sign(self._key, hashes.SHA256())))

    def sign(self, name: str, *, names: tuple[str, ...] = (), expired: bool = False) -> "Signed":
        """A certificate for a server of these names, or for a client where there are none; name is its common name."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        end = now - DAY if expired else now + DAY
        made = self._builder(_name(name), key.public_key(), now - 2 * DAY, end)
        if names:
            found = [_subject(each) for each in names]
            made = made.add_extension(x509.SubjectAlternativeName(found), critical=False)
        signed = made.sign(self._key, hashes.SHA256())
        stem = f"{name}-{signed.serial_number:x}"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Signed(signed, self._write(f"{stem}.crt", _pem(signed)), self._write(f"{stem}.key", private, 0o600))

    def revoke(self, *revoked: "Signed") -> Path:
        """A list of revoked certificates with these in it."""
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now - DAY)
        made = made.next_update(now + DAY)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.parsed.serial_number)
            made = made.add_revoked_certificate(entry.revocation_date(now - DAY).build())
        name = "-".join(["revoked", *(f"{each.parsed.serial_number:x}"[:8] for each in revoked)])
        return self._write(
            f"{name}.crl", made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime.datetime, end: datetime.datetime
    ) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
        return made.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    def _write(self, name: str, data: bytes, mode: int = 0o644) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        os.chmod(path, mode)
        return path


class Signed:
    """A certificate with its key, as files."""

    def __init__(self, parsed: x509.Certificate, certificate: Path, key: Path) -> None:
        self.parsed = parsed
        self.certificate = certificate
        self.key = key

    @property
    def der(self) -> bytes:
        """The certificate as it travels."""
        return self.parsed.public_bytes(serialization.Encoding.DER)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _subject(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
