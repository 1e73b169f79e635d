"""A certificate authority for one test: what it signs is as right or as wrong as the test wants it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key, in PEM files."""

    cert: Path
    key: Path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: str | None = None) -> None:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    path.chmod(0o600)


class Authority:
    """Signs certificates with a key that lives as long as the test."""

    def __init__(self, folder: Path, name: str = "test-authority", above: Authority | None = None) -> None:
        self._folder = folder
        self._name = _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / f"{name}.pem"
        builder = self._builder(self._name, self._key, datetime.now(timezone.utc) + 30 * DAY, above or self)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        signed = builder.add_extension(usage, critical=True).sign((above or self)._key, hashes.SHA256())
        self.ca.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    @staticmethod
    def _builder(
        name: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime, signer: Authority
    ) -> x509.CertificateBuilder:
        public = key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(signer._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - 60 * DAY)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer._key.public_key()), critical=False)
        )

    def sign(
        self, name: str, *hosts: str, days: int = 30, passphrase: str | None = None, file: str | None = None
    ) -> Certified:
        """Sign a certificate for hosts, valid from 60 days before its end, which comes in `days` days."""
        made = Certified(self._folder / f"{file or name}.pem", self._folder / f"{file or name}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_named(name), key, datetime.now(timezone.utc) + days * DAY, self)
        if hosts:
            names: list[x509.GeneralName] = []
            for host in hosts:
                is_address = host.replace(".", "").isdigit()
                names.append(x509.IPAddress(ipaddress.ip_address(host)) if is_address else x509.DNSName(host))
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made.cert.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        _write_key(made.key, key, passphrase)
        return made
