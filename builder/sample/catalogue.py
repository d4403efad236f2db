"""Signs the sample's driver packages: a throw-away certificate authority, and catalogues in Windows' format.

A catalogue is a PKCS#7 SignedData over a certificate trust list that names the hash of every file of a package:
PE files by Authenticode hash, others by flat hash ([MS-CAESO], RFC 2315; shape compared with catalogues of virtio-win).
The keys live only as long as the `Signer`; the names say plainly whose they are.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from builder.sample import pe

_VALID = datetime.timedelta(days=3650)
_BACKDATED = datetime.timedelta(days=2)  # guests' clocks may run on local time

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_RSA = "1.2.840.113549.1.1.1"
_SHA256 = "2.16.840.1.101.3.4.2.1"
_TRUST_LIST = "1.3.6.1.4.1.311.10.1"
_CATALOG_LIST = "1.3.6.1.4.1.311.12.1.1"
_CATALOG_MEMBER_V2 = "1.3.6.1.4.1.311.12.1.3"  # SHA-256
_NAME_VALUE = "1.3.6.1.4.1.311.12.2.1"
_MEMBER_INFO_V2 = "1.3.6.1.4.1.311.12.2.3"
_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
_PE_IMAGE = "1.3.6.1.4.1.311.2.1.15"
_FLAT_FILE = "1.3.6.1.4.1.311.2.1.25"
_ATTRIBUTE = 0x10010001  # CRYPTCAT_ATTR_AUTHENTICATED | NAMEASCII | DATAASCII


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
    """The .cat (DER) that vouches for `files`, name -> content; names ending in .sys are PE files of `pe.image`."""
    members = sorted(_member(name, content) for name, content in files.items())
    identifier = hashlib.sha256(b"".join(members)).digest()[:16]
    trust_list = (
        _sequence(_oid(_CATALOG_LIST))
        + _octets(identifier)
        + core.UTCTime(now.replace(microsecond=0)).dump()
        + _sequence(_oid(_CATALOG_MEMBER_V2), core.Null().dump())
        + _sequence(*members)
    )
    return _signed(trust_list, signer)


def _member(name: str, content: bytes) -> bytes:
    is_pe = name.lower().endswith(".sys")
    digest = pe.authenticode_sha256(content) if is_pe else hashlib.sha256(content).digest()
    nowhere = _tagged(2, _tagged(0, b"", constructed=False))  # SpcLink with an empty file name
    kind = (
        _sequence(_oid(_PE_IMAGE), _sequence(core.BitString(()).dump(), _tagged(0, nowhere)))
        if is_pe
        else _sequence(_oid(_FLAT_FILE), nowhere)
    )
    subject = _tagged(0 if is_pe else 2, b"", constructed=False)
    attributes = (
        (_MEMBER_INFO_V2, subject),
        (_NAME_VALUE, _name_value("OSAttr", "2:10.0")),
        (_NAME_VALUE, _name_value("File", name.lower())),
        (_INDIRECT_DATA, _sequence(kind, _sequence(_sha256(), _octets(digest)))),
    )
    return _sequence(_octets(digest), _set(*(_sequence(_oid(oid), _set(value)) for oid, value in attributes)))


def _name_value(name: str, value: str) -> bytes:
    text = _octets((value + "\0").encode("utf-16-le"))
    return _sequence(core.BMPString(name).dump(), core.Integer(_ATTRIBUTE).dump(), text)


def _signed(content: bytes, signer: Signer) -> bytes:
    """PKCS#7 1.5 SignedData; the digest is over the contents of the trust list without its tag and length."""
    attributes = _set_contents(
        _sequence(_oid(_CONTENT_TYPE), _set(_oid(_TRUST_LIST))),
        _sequence(_oid(_MESSAGE_DIGEST), _set(_octets(hashlib.sha256(content).digest()))),
    )
    signature = signer.key.sign(_tlv(0x31, attributes), padding.PKCS1v15(), hashes.SHA256())
    issued_by = signer.certificate.issuer.public_bytes() + core.Integer(signer.certificate.serial_number).dump()
    signer_info = _sequence(
        core.Integer(1).dump(),
        _sequence(issued_by),
        _sha256(),
        _tagged(0, attributes),
        _sequence(_oid(_RSA), core.Null().dump()),
        _octets(signature),
    )
    certificates = signer.certificate.public_bytes(serialization.Encoding.DER) + signer.authority_der
    data = _sequence(
        core.Integer(1).dump(),
        _set(_sha256()),
        _sequence(_oid(_TRUST_LIST), _tagged(0, _sequence(content))),
        _tagged(0, certificates),
        _set(signer_info),
    )
    return _sequence(_oid(_SIGNED_DATA), _tagged(0, data))


def _tlv(tag: int, content: bytes) -> bytes:
    """One DER element."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes(-(-length.bit_length() // 8), "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _set_contents(*parts: bytes) -> bytes:
    return b"".join(sorted(parts))


def _set(*parts: bytes) -> bytes:
    return _tlv(0x31, _set_contents(*parts))


def _tagged(number: int, content: bytes, *, constructed: bool = True) -> bytes:
    return _tlv((0xA0 if constructed else 0x80) | number, content)


def _oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def _octets(content: bytes) -> bytes:
    return _tlv(0x04, content)


def _sha256() -> bytes:
    return _sequence(_oid(_SHA256), core.Null().dump())
