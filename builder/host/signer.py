"""Signs driver packages with a team's own certificate: each .sys, and the catalogue, by osslsigncode.

The key and its passphrase are read by osslsigncode alone, from files only their owner can read; neither is ever on a
command line or in our memory. Everything is signed and verified beside the package before a file of it is replaced.
"""

from __future__ import annotations

import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from builder.errors import ConfigError, InputRefused
from builder.host.media import open_media
from builder.host.process import ProgramFailed, run
from builder.model import Media, Signature, Signer
from builder.windows import authenticode, catalogue, inf_install, signatures
from builder.windows.authenticode import Unsound
from builder.windows.inf import Inf, parse
from builder.windows.inf_install import Target
from builder.windows.paths import MediaPath
from builder.windows.releases import RELEASES, Arch

_TIMEOUT = 60.0  # seconds for one file
_ENCRYPTED = re.compile(rb"BEGIN ENCRYPTED PRIVATE KEY|Proc-Type: 4,ENCRYPTED")
_NOISE = re.compile(r":error:|^Enter |^\s*$")  # OpenSSL's error queue, prompts
_LARGEST_KEY = 64 << 10  # bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom to sign as: PEM files.

    certificate  the signer's certificate, then those of its issuers up to the root
    key          its private key; `passphrase` is a file that holds the passphrase of an encrypted one in its first line
    """

    certificate: Path
    key: Path
    passphrase: Path | None = None


@dataclass(frozen=True, slots=True)
class Resigned:
    """A package that is signed anew: its INF and catalogue below the folder, and what the signature is worth now."""

    inf: MediaPath
    catalog: MediaPath
    signature: Signature


@dataclass(frozen=True, slots=True)
class _Package:
    """An INF, the name of its catalogue, and all files it copies on any Windows."""

    inf: MediaPath
    catalog: MediaPath
    files: tuple[MediaPath, ...]


def sign(folder: Path, identity: Identity) -> tuple[Resigned, ...]:
    """Signs every package in `folder` anew, in place; all of them or none.

    Raises ConfigError when the key is not kept secret or does not fit, InputRefused when a package is not complete,
    EnvironmentUnable without osslsigncode.
    """
    _require_secret(identity)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", fix="unpack the drivers, and give their folder")
    with open_media(folder) as media, tempfile.TemporaryDirectory(dir=folder, prefix=".signing-") as name:
        packages = tuple(_packages(media))
        if not packages:
            raise InputRefused(f"there is no driver in {folder}", why="it holds no INF file")
        signed = _signed(media, packages, identity, Path(name))
        done = tuple(Resigned(one.inf, one.catalog, _examined(media, one, signed)) for one in packages)
        for path, file in signed.items():
            _replace(file, folder.joinpath(*path.parts))
    return done


def _require_secret(identity: Identity) -> None:
    for path in (identity.key, *([identity.passphrase] if identity.passphrase else [])):
        try:
            found = path.lstat()
        except OSError as error:
            raise ConfigError(f"cannot read {path}", why=str(error.strerror)) from None
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is not a regular file", why="a secret is not followed through links")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            why = f"its mode is {stat.S_IMODE(found.st_mode):04o}"
            raise ConfigError(f"others can read {path}", why=why, fix=f"chmod 600 {path}")
    if not identity.certificate.is_file():
        raise ConfigError(f"{identity.certificate} is not a file", fix="give the signer's certificate, PEM")
    with identity.key.open("rb") as file:
        encrypted = _ENCRYPTED.search(file.read(_LARGEST_KEY))
    if encrypted and not identity.passphrase:
        raise ConfigError(f"{identity.key} is encrypted", fix="give --passphrase-file FILE")


# ---------------------------------------------------------------- what there is to sign


def _packages(media: Media) -> Iterator[_Package]:
    by_name = {str(path).lower(): path for path in media.files()}

    def beside(inf: MediaPath, name: str) -> MediaPath | None:
        return by_name.get("/".join((*inf.folder, name)).lower())

    for path in media.files():
        if path.name.lower().endswith(".inf"):
            inf = parse(str(path), media.read(path))
            names = _copied(inf)
            missing = [name for name in names if not beside(path, name)]
            if missing:
                raise InputRefused(f"{path} needs {', '.join(missing)}, which is not in the folder")
            files = tuple(found for name in names if (found := beside(path, name)))
            for name in _catalogs(inf):
                yield _Package(path, beside(path, name) or MediaPath((*path.folder, name)), (path, *files))


def _targets(inf: Inf) -> list[Target]:
    """The Windows an INF is for."""
    every = [Target(arch, row.nt, row.builds[-1], row.server) for row in RELEASES for arch in Arch]
    found = [one for one in every if inf_install.devices(inf, one)]
    if not found:
        raise InputRefused(f"{inf.source} is for no Windows winfoundry knows")
    return found


def _copied(inf: Inf) -> tuple[str, ...]:
    copies = (copy for target in _targets(inf) for copy in inf_install.copies(inf, target))
    return tuple(dict.fromkeys(str(copy.source) for copy in copies))


def _catalogs(inf: Inf) -> tuple[str, ...]:
    names = dict.fromkeys(inf_install.version(inf, target.arch).catalog for target in _targets(inf))
    if "" in names:
        raise InputRefused(
            f"{inf.source} names no CatalogFile", fix="add CatalogFile=name.cat to its [Version] section"
        )
    try:
        return tuple(MediaPath.parse(name).name for name in names)
    except ValueError as error:
        raise InputRefused(f"{inf.source}: CatalogFile is not a file name: {error}") from None


# ---------------------------------------------------------------- signing


def _signed(media: Media, packages: tuple[_Package, ...], identity: Identity, work: Path) -> dict[MediaPath, Path]:
    """The new files: first the drivers, as catalogues list them signed; a file two packages share is signed once."""
    programs = {path for one in packages for path in one.files if path.name.lower().endswith(".sys")}
    signed = {path: _sign_one(media.read(path), path, identity, work) for path in sorted(programs, key=str)}
    now = datetime.now(UTC)
    for catalog in dict.fromkeys(one.catalog for one in packages):
        members = {path for one in packages if one.catalog == catalog for path in one.files}
        contents = {path.name: _content(media, path, signed) for path in sorted(members, key=str)}
        try:
            data = catalogue.unsigned(contents, now)
        except Unsound as error:
            raise InputRefused(f"a file of {catalog} cannot be listed: {error}") from None
        signed[catalog] = _sign_one(data, catalog, identity, work)
    return signed


def _content(media: Media, path: MediaPath, signed: dict[MediaPath, Path]) -> bytes:
    return signed[path].read_bytes() if path in signed else media.read(path)


def _sign_one(data: bytes, path: MediaPath, identity: Identity, work: Path) -> Path:
    number = len(list(work.iterdir()))
    before, after = work / f"{number}-{path.name}", work / f"{number}-signed-{path.name}"
    before.write_bytes(data)
    secret = ("-readpass", identity.passphrase) if identity.passphrase else ()
    who = ("-certs", identity.certificate, "-key", identity.key, *secret)
    try:
        run(["osslsigncode", "sign", *who, "-h", "sha256", "-in", before, "-out", after], timeout=_TIMEOUT)
    except ProgramFailed as error:
        said = [line.strip() for line in error.finished.stderr.splitlines() if not _NOISE.search(line)]
        raise ConfigError(
            f"osslsigncode cannot sign {path}",
            why=" ".join(said) or error.why,
            fix="see that --key belongs to a certificate in --cert, and that the passphrase is right",
        ) from None
    return after


def _examined(media: Media, package: _Package, signed: dict[MediaPath, Path]) -> Signature:
    """What winfoundry itself will make of the package. Raises ConfigError when it would not be usable."""
    inf, catalog = ((one.name, _content(media, one, signed)) for one in (package.inf, package.catalog))
    programs = {path.name: authenticode.image(signed[path].read_bytes()) for path in package.files if path in signed}
    found = signatures.examine(inf, catalog, programs)
    if found.signer in (Signer.BROKEN, Signer.UNSIGNED):
        raise ConfigError(
            f"{package.inf} would not be usable when signed so",
            why=found.why,
            fix="append the certificates of the issuers, up to the root, to the file of --cert",
        )
    return found


def _replace(new: Path, target: Path) -> None:
    if target.exists():
        new.chmod(stat.S_IMODE(target.stat().st_mode))
    new.replace(target)
