"""Who vouches for a driver package, and what each Windows makes of that.

A file is vouched for by its hash in the package's catalogue or, if it is a program, by its own signature. A catalogue
lists PE files by Authenticode hash and others by the hash of their bytes, SHA-1 in old ones and SHA-256 in new ones.
Measured: all 563 INF and .sys files of virtio-win 0.1.240 are in a catalogue of their own folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha1, sha256
from typing import Any

from builder.model import Signature, Signer
from builder.windows.authenticode import Image, Signed, Unsound, verify
from builder.windows.releases import Arch, Release

MAX_CATALOG = 4 << 20  # bytes

_MICROSOFT_ROOTS = frozenset(
    {
        "Microsoft Root Authority",
        "Microsoft Root Certificate Authority",
        "Microsoft Root Certificate Authority 2010",
        "Microsoft Root Certificate Authority 2011",
    }
)
_DRIVER_USAGES = frozenset(
    {
        "1.3.6.1.4.1.311.10.3.5",  # Windows Hardware Driver Verification (WHQL)
        "1.3.6.1.4.1.311.10.3.5.1",  # Windows Hardware Driver Attested Verification
        "1.3.6.1.4.1.311.10.3.6",  # Windows System Component Verification
    }
)
_WEAKEST_LAST = tuple(Signer)  # microsoft, cross-signed, test-signed, unsigned, broken


class Verdict(StrEnum):
    """What a Windows does with a driver at boot, before anybody changes its settings."""

    LOADS = "loads as is"
    TEST_MODE = "needs test mode"
    REFUSED = "will not load"


@dataclass(frozen=True, slots=True)
class Catalog:
    """A catalogue whose signature verifies: the hashes it lists."""

    name: str
    members: frozenset[bytes]
    signed: Signed

    def lists(self, data: bytes) -> bool:
        """Whether a file that is no program is listed with exactly these bytes."""
        return bool({sha1(data, usedforsecurity=False).digest(), sha256(data).digest()} & self.members)

    def lists_image(self, program: Image) -> bool:
        return bool({program.digest("sha1"), program.digest("sha256")} & self.members)


def catalog(name: str, data: bytes, extra: Iterable[bytes] = ()) -> Catalog:
    """Raises Unsound for what is not a catalogue, or does not verify."""
    import signify.asn1.ctl  # noqa: F401  teaches asn1crypto the content of catalogues

    if len(data) > MAX_CATALOG:
        raise Unsound(f"a catalogue of {len(data)} bytes is over the limit of {MAX_CATALOG}")
    signed = verify(data, extra)
    try:
        return Catalog(name, frozenset(_members(signed.content)), signed)
    except Exception as error:  # asn1crypto raises many kinds for hostile bytes
        raise Unsound(f"it is signed, but is not a catalogue ({error})") from error


def _members(trust_list: Any) -> Iterator[bytes]:
    for subject in trust_list["trusted_subjects"]:
        identifier = bytes(subject["subject_identifier"].native)
        yield identifier
        if text := identifier.decode("utf-16-le", "ignore").rstrip("\0"):  # catalogues before Windows 8: hex digits
            yield bytes.fromhex(text) if re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", text) else b""
        for attribute in subject["subject_attributes"]:
            if attribute["type"].native == "microsoft_spc_indirect_data_content":
                yield from (one["message_digest"]["digest"].native for one in attribute["values"])


# ---------------------------------------------------------------- examining a package


@dataclass(frozen=True, slots=True)
class _Finding:
    signer: Signer
    why: str
    signed: Signed | None = None


def examine(
    inf: tuple[str, bytes],
    catalogue: tuple[str, bytes] | None,
    programs: Mapping[str, Image],
    extra: Iterable[bytes] = (),
) -> Signature:
    """What the signatures of a package are worth: the class of its weakest part, INF or one of the kernel `programs`.

    `inf` and `catalogue` are (file name, bytes); `extra` are DER certificates found beside, which may complete a chain.
    """
    extra = tuple(extra)
    if catalogue is None:
        return _signature(_Finding(Signer.UNSIGNED, f"{inf[0]} comes without a catalogue"), None)
    try:
        listing = catalog(*catalogue, extra)
    except Unsound as error:
        return _signature(_Finding(Signer.BROKEN, f"{catalogue[0]}: {error}"), None)
    if not listing.lists(inf[1]) and not any(map(listing.lists_image, programs.values())):
        why = _line_ends(listing, *inf) or f"{listing.name} lists no file of {inf[0]}: is it another package's?"
        return _signature(_Finding(Signer.BROKEN, why), listing.signed)
    findings = [_of_inf(listing, *inf), *(_of_program(listing, *item, extra) for item in programs.items())]
    return _signature(max(findings, key=lambda found: _WEAKEST_LAST.index(found.signer)), listing.signed)


def _of_inf(listing: Catalog, name: str, data: bytes) -> _Finding:
    if listing.lists(data):
        return _class(listing.signed)
    changed = f"{listing.name} does not list {name} as it is on the disc: line ends changed?"
    return _Finding(Signer.BROKEN, _line_ends(listing, name, data) or changed)


def _line_ends(listing: Catalog, name: str, data: bytes) -> str:
    """What to say when the INF would be listed with the line ends Windows' tools write; "" when it would not."""
    restored = re.sub(rb"\r?\n", b"\r\n", data)
    return (
        f"{listing.name} lists {name} with CRLF line ends only: line ends changed?" if listing.lists(restored) else ""
    )


def _of_program(listing: Catalog, name: str, program: Image, extra: tuple[bytes, ...]) -> _Finding:
    listed = [_class(listing.signed)] if listing.lists_image(program) else []
    findings = listed + [_of_own_signature(name, program, blob, extra) for blob in program.signatures[:1]]
    missing = _Finding(Signer.BROKEN, f"{listing.name} does not list {name} as it is on the disc: file changed?")
    return min([*findings, missing], key=lambda found: _WEAKEST_LAST.index(found.signer))


def _of_own_signature(name: str, program: Image, blob: bytes, extra: tuple[bytes, ...]) -> _Finding:
    try:
        signed = verify(blob, extra)
        digest = signed.content["message_digest"]
        same = program.digest(digest["digest_algorithm"]["algorithm"].native) == digest["digest"].native
    except Exception as error:  # asn1crypto raises many kinds for hostile bytes
        return _Finding(Signer.BROKEN, f"{name}: {error}")
    return _class(signed) if same else _Finding(Signer.BROKEN, f"{name} has been changed since it was signed")


def _class(signed: Signed) -> _Finding:
    if signed.anchor in _MICROSOFT_ROOTS and signed.usages & _DRIVER_USAGES:
        return _Finding(Signer.MICROSOFT, f"signed by {signed.by}", signed)
    if signed.anchor and signed.crossed:
        return _Finding(
            Signer.CROSS_SIGNED, f"signed by {signed.by}, whose {signed.anchor} Microsoft cross-signed", signed
        )
    if signed.anchor:
        return _Finding(Signer.TEST_SIGNED, f"signed by {signed.by}, but without Microsoft's cross-certificate", signed)
    if signed.rooted:
        return _Finding(Signer.TEST_SIGNED, f"signed by {signed.by}, a signer that no Windows knows", signed)
    return _Finding(
        Signer.BROKEN, f"signed by {signed.by}, but the certificate of its issuer is not on the disc", signed
    )


def _signature(finding: _Finding, listed: Signed | None) -> Signature:
    signed = finding.signed or listed
    return Signature(
        signer=finding.signer,
        by=signed.by if signed else "",
        leaf=signed.chain[0] if signed else None,
        root=signed.chain[-1] if signed else None,
        why=finding.why,
    )


# ---------------------------------------------------------------- what Windows makes of it

_ALL_LOAD = dict.fromkeys(Signer, Verdict.LOADS) | {Signer.BROKEN: Verdict.REFUSED}
_VISTA_TO_81 = {
    Signer.MICROSOFT: Verdict.LOADS,
    Signer.CROSS_SIGNED: Verdict.LOADS,
    Signer.TEST_SIGNED: Verdict.TEST_MODE,
    Signer.UNSIGNED: Verdict.REFUSED,
    Signer.BROKEN: Verdict.REFUSED,
}
_POLICIES: tuple[tuple[tuple[int, int], Mapping[Signer, Verdict]], ...] = (
    ((10, 0), _VISTA_TO_81 | {Signer.CROSS_SIGNED: Verdict.TEST_MODE}),
    ((6, 0), _VISTA_TO_81),
    ((0, 0), _ALL_LOAD),
)
"""From this kernel on; the first that fits. Microsoft's published rules, not measured."""


def verdict(signature: Signature, release: Release, arch: Arch, *, kernel_code: bool) -> Verdict:
    """By release, architecture and class; x86 Windows enforces no signatures on kernel code, and test mode is for it.

    A package without kernel code needs to be trusted, never test mode.
    """
    policy = _ALL_LOAD if arch is Arch.X86 else next(table for nt, table in _POLICIES if release.nt >= nt)
    found = policy[signature.signer]
    return Verdict.LOADS if found is Verdict.TEST_MODE and not kernel_code else found
