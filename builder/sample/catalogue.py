"""Signs the sample's driver packages by a throw-away certificate authority, with no tool and no key on a disk.

The keys live only as long as the `Signer`; the names say plainly whose they are.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from builder.windows import der
from builder.windows.catalogue import TRUST_LIST, signed_data, trust_list

_VALID = datetime.timedelta(days=3650)
_BACKDATED = datetime.timedelta(days=2)  # guests' clocks may run on local time

_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_RSA = "1.2.840.113549.1.1.1"


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate authority, and a code-signing certificate of it with its key."""

    authority: x509.Certificate
    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def authority_der(self) -> bytes:
        return self.authority.public_bytes(serialization.Encoding.DER)


def new_signer(now: datetime.datetime) -> Signer:
    """Fresh keys and certificates, valid for ten years from `now` (UTC)."""
    ca_key, key = _new_key(), _new_key()
    ca_name, name = _name("winfoundry sample CA"), _name("winfoundry sample signer")
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    authority = (
        _certificate(now, ca_name, ca_name, ca_key)
        .add_extension(constraints, critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
    )
    leaf = (
        _certificate(now, name, ca_name, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    )
    return Signer(authority.sign(ca_key, hashes.SHA256()), leaf.sign(ca_key, hashes.SHA256()), key)


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    now: datetime.datetime, subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    dated = builder.not_valid_before(now - _BACKDATED).not_valid_after(now + _VALID)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return dated.serial_number(x509.random_serial_number()).add_extension(identifier, critical=False)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature, False, False, False, False, key_cert_sign, False, False, False)


def catalogue(files: Mapping[str, bytes], signer: Signer, now: datetime.datetime) -> bytes:
    """The .cat (DER) that vouches for `files`, name -> content."""
    content = trust_list(files, now)
    attributes = sorted(
        (
            der.sequence(der.oid(_CONTENT_TYPE), der.set_of(der.oid(TRUST_LIST))),
            der.sequence(der.oid(_MESSAGE_DIGEST), der.set_of(der.octets(hashlib.sha256(content).digest()))),
        )
    )
    signature = signer.key.sign(der.set_of(*attributes), padding.PKCS1v15(), hashes.SHA256())
    issued_by = signer.certificate.issuer.public_bytes() + der.integer(signer.certificate.serial_number)
    signer_info = der.sequence(
        der.integer(1),
        der.sequence(issued_by),
        der.algorithm(der.SHA256),
        der.tagged(0, b"".join(attributes)),
        der.algorithm(_RSA),
        der.octets(signature),
    )
    certificates = signer.certificate.public_bytes(serialization.Encoding.DER) + signer.authority_der
    return signed_data(content, certificates, signer_info)
