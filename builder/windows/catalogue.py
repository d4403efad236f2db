"""Writes catalogues (.cat): the hashes of a package's files, in the format Windows verifies; reading is `signatures`'.

A catalogue is a PKCS#7 SignedData over a certificate trust list that names the hash of every file of a package:
programs by Authenticode hash, others by flat hash ([MS-CAESO], RFC 2315; shape compared with catalogues of virtio-win).
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping

from asn1crypto import core

from builder.windows import authenticode, der

TRUST_LIST = "1.3.6.1.4.1.311.10.1"

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_CATALOG_LIST = "1.3.6.1.4.1.311.12.1.1"
_CATALOG_MEMBER_V2 = "1.3.6.1.4.1.311.12.1.3"  # SHA-256
_NAME_VALUE = "1.3.6.1.4.1.311.12.2.1"
_MEMBER_INFO_V2 = "1.3.6.1.4.1.311.12.2.3"
_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
_PE_IMAGE = "1.3.6.1.4.1.311.2.1.15"
_FLAT_FILE = "1.3.6.1.4.1.311.2.1.25"
_ATTRIBUTE = 0x10010001  # CRYPTCAT_ATTR_AUTHENTICATED | NAMEASCII | DATAASCII


def unsigned(files: Mapping[str, bytes], now: datetime.datetime) -> bytes:
    """The catalogue (DER) of `files`, name -> content, dated `now` (UTC), for somebody to sign."""
    return signed_data(trust_list(files, now))


def trust_list(files: Mapping[str, bytes], now: datetime.datetime) -> bytes:
    """The contents of the list, without its own tag and length: what a signature's digest is over.

    Raises Unsound for a file that starts as a program and is none.
    """
    members = sorted(_member(name, content) for name, content in files.items())
    identifier = hashlib.sha256(b"".join(members)).digest()[:16]
    return (
        der.sequence(der.oid(_CATALOG_LIST))
        + der.octets(identifier)
        + bytes(core.UTCTime(now.replace(microsecond=0)).dump())
        + der.sequence(der.oid(_CATALOG_MEMBER_V2), core.Null().dump())
        + der.sequence(*members)
    )


def signed_data(content: bytes, certificates: bytes = b"", signers: bytes = b"") -> bytes:
    """PKCS#7 1.5 SignedData over a trust list; `certificates` and `signers` are rows of DER elements."""
    data = der.sequence(
        der.integer(1),
        der.set_of(der.algorithm(der.SHA256)),
        der.sequence(der.oid(TRUST_LIST), der.tagged(0, der.sequence(content))),
        der.tagged(0, certificates) if certificates else b"",
        der.element(0x31, signers),
    )
    return der.sequence(der.oid(_SIGNED_DATA), der.tagged(0, data))


def _member(name: str, content: bytes) -> bytes:
    is_pe = content.startswith(b"MZ")
    digest = authenticode.image(content).digest("sha256") if is_pe else hashlib.sha256(content).digest()
    nowhere = der.tagged(2, der.tagged(0, b"", constructed=False))  # SpcLink with an empty file name
    kind = (
        der.sequence(der.oid(_PE_IMAGE), der.sequence(core.BitString(()).dump(), der.tagged(0, nowhere)))
        if is_pe
        else der.sequence(der.oid(_FLAT_FILE), nowhere)
    )
    subject = der.tagged(0 if is_pe else 2, b"", constructed=False)
    attributes = (
        (_MEMBER_INFO_V2, subject),
        (_NAME_VALUE, _name_value("OSAttr", "2:10.0")),
        (_NAME_VALUE, _name_value("File", name.lower())),
        (_INDIRECT_DATA, der.sequence(kind, der.sequence(der.algorithm(der.SHA256), der.octets(digest)))),
    )
    named = (der.sequence(der.oid(kind_of), der.set_of(value)) for kind_of, value in attributes)
    return der.sequence(der.octets(digest), der.set_of(*named))


def _name_value(name: str, value: str) -> bytes:
    text = der.octets((value + "\0").encode("utf-16-le"))
    return der.sequence(core.BMPString(name).dump(), der.integer(_ATTRIBUTE), text)
