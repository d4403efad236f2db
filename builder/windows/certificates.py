r"""Certificates in the machine's stores: keys of the SOFTWARE hive that hold one `Blob` each.

A Blob is a row of properties, each `{id, 1, length}` as three little-endian uint32 followed by the bytes: the SHA-1
thumbprint (CERT_SHA1_HASH_PROP_ID) and, last, the certificate itself (CERT_CERT_PROP_ID). Measured: CertOpenStore of
Wine finds a certificate written so in both stores.
"""

from __future__ import annotations

import hashlib
import struct

from builder.model import Certificate, Hive, SetValue, Signature, Signer
from builder.windows.registry import binary

_SHA1_HASH, _CERTIFICATE = 3, 32
_STORES = ("Microsoft", "SystemCertificates")


def blob(der: bytes) -> bytes:
    """The serialised properties Windows keeps for a certificate, DER as given."""
    thumbprint = hashlib.sha1(der, usedforsecurity=False).digest()
    return b"".join(
        struct.pack("<III", kind, 1, len(data)) + data for kind, data in ((_SHA1_HASH, thumbprint), (_CERTIFICATE, der))
    )


def trust(signature: Signature) -> tuple[SetValue, ...]:
    """What makes Windows install a test-signed package silently: its CA in ROOT, its signer in TrustedPublisher.

    Packages of other signers need nothing, or cannot be helped.
    """
    if signature.signer is not Signer.TEST_SIGNED or signature.leaf is None or signature.root is None:
        return ()
    return (_stored("ROOT", signature.root), _stored("TrustedPublisher", signature.leaf))


def _stored(store: str, certificate: Certificate) -> SetValue:
    key = (*_STORES, store, "Certificates", certificate.thumbprint)
    reason = f"trust {certificate.subject} ({store}), who signed the drivers"
    return SetValue(Hive.SOFTWARE, key, "Blob", binary(blob(certificate.der)), reason)
