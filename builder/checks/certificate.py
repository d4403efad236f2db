"""`host.certificate("5C485F…")`: a certificate in the machine's stores, by its thumbprint."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

from builder.checks.image import Image
from builder.model import Hive, Key

_CERTIFICATE = 32  # CERT_CERT_PROP_ID
_SUFFIX = "Certificates"


class Certificate:
    """`thumbprint` is the SHA-1 of the certificate in hex, as Windows shows it; spaces and case do not matter.

    >>> host.certificate("5c485f20bef4a9dd77258a2f06d9386f18fb0696").in_store("TrustedPublisher")
    True
    """

    def __init__(self, image: Image, thumbprint: str) -> None:
        self._image = image
        self.thumbprint = thumbprint.replace(" ", "").replace(":", "").upper()

    def __repr__(self) -> str:
        return f"<certificate {self.thumbprint}>"

    def in_store(self, store: str) -> bool:
        """Whether the machine's store ("ROOT", "TrustedPublisher") holds it, and its bytes have that thumbprint."""
        return self._der(store) is not None

    def _der(self, store: str) -> bytes | None:
        der = _read(self._image, (*_store(store), self.thumbprint))
        return der if hashlib.sha1(der, usedforsecurity=False).hexdigest().upper() == self.thumbprint else None


def all_in(image: Image, store: str) -> tuple[bytes, ...]:
    """The DER of every certificate in the machine's store."""
    found = (_read(image, (*_store(store), name)) for name in image.subkeys(Hive.SOFTWARE, _store(store)))
    return tuple(der for der in found if der)


def _store(name: str) -> Key:
    return ("Microsoft", "SystemCertificates", name, _SUFFIX)


def _read(image: Image, key: Key) -> bytes:
    """b"" when the key is not there, or holds no certificate."""
    blob = image.value(Hive.SOFTWARE, key, "Blob")
    return dict(_properties(blob.data)).get(_CERTIFICATE, b"") if blob else b""


def _properties(blob: bytes) -> Iterator[tuple[int, bytes]]:
    """Rows of {uint32 id, uint32 1, uint32 length, bytes}, little-endian; a row that is cut short ends them."""
    at = 0
    while at + 12 <= len(blob):
        number, _, length = struct.unpack_from("<III", blob, at)
        yield number, blob[at + 12 : at + 12 + length]
        at += 12 + length
