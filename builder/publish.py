"""Publishes a finished build: everything is made ready in a staging folder, then one rename makes it be there.

    flatten → check → compare → documents → seal (modes, fsync) → the source once more → rename → fsync

A file that a power cut or a kill cut short passes `qemu-img check` (measured), so the copy is compared with what was
built. Until the rename nothing is published; from then on all of it is. Replacing an output swaps two folders in one
step, so there is no moment without one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from builder import domain_template, manifest
from builder.config import BuildSpec
from builder.errors import ApplyFailed, EnvironmentUnable, PublishConflict
from builder.host import disk_image, files
from builder.host.process import ProgramFailed, run
from builder.manifest import Artifact, Build, Inputs
from builder.model import Media, Source
from builder.windows.paths import MediaPath
from builder.windows.places import is_added

IMAGE, MANIFEST, SUMS = "image.qcow2", "manifest.json", "SHA256SUMS"
_BOOT = "boot"
_CONVERT_TIMEOUT = 6 * 3600.0  # seconds; a disk of 100 GB takes minutes
_LARGEST_DOCUMENT = 16 << 20  # bytes
_NOT_FREE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def inputs(spec: BuildSpec, source: Source, media: Media) -> Inputs:
    """What decides the result. The digest of a folder of drivers is one over the digests of all its files."""
    disc = [path for path in media.files() if not is_added(path)]
    added = [path for path in media.files() if is_added(path)]
    drivers = _digest(media, disc) if media.origin.is_dir() else files.sha256(media.origin)
    template = domain_template.read(spec.domain_template) if spec.domain_template else ""
    wishes = hashlib.sha256((spec.digest + template).encode()).hexdigest() if template else spec.digest
    more = _digest(media, added) if added else ""
    return Inputs(name=spec.name, source=source.sha256, drivers=drivers, driver_folders=more, spec=wishes)


def _digest(media: Media, paths: Sequence[MediaPath]) -> str:
    lines = (f"{hashlib.sha256(media.read(path)).hexdigest()}  {path}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def publish(
    build: Build,
    output: Path,
    *,
    staging: Path,
    compress: bool = False,
    force: bool = False,
    confirm: Callable[[], None] = lambda: None,
) -> Path:
    """The folder `output` holds the image and its documents afterwards, or is as it was.

    `staging` does not exist yet and is on the file system of `output`; it is gone afterwards. `confirm` has the last
    word: when it raises, nothing is published. `force` replaces an output of winfoundry. Raises PublishConflict when
    the output is taken, ApplyFailed when the image did not arrive whole, EnvironmentUnable when there can be no output.
    """
    require_place(output, force=force)
    _require_same_file_system(staging.parent, output.parent)
    staging.mkdir(mode=0o700)
    try:
        _flatten(build.applied.image, staging / IMAGE, compress=compress)
        names = _documents(build, staging)
        _require_only(names, staging)
        files.seal(staging)
        confirm()
        _move(staging, output, force=force)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return output


def require_place(output: Path, *, force: bool) -> None:
    """Raises PublishConflict when `output` is taken, EnvironmentUnable when it cannot be made, before work begins."""
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK | os.X_OK):
        raise EnvironmentUnable(
            f"nothing can be published in {output.parent}",
            why="it is not a folder this user can write to",
            fix="make it, or give another output_directory",
        )
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise PublishConflict(f"{output} exists and is not a folder", fix="give another output_directory")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not force:
        raise PublishConflict(f"{output} exists", fix="remove it, give another output_directory, or use -force")
    if not _read_manifest(output):
        raise PublishConflict(
            f"{output} is not an output of winfoundry", why=f"it has no {MANIFEST} of ours", fix="remove it yourself"
        )


def published_already(output: Path, made_from: Inputs) -> bool:
    """Whether `output` was made from the same inputs and still is what was published, every file of it."""
    return _read_manifest(output).get("inputs") == asdict(made_from) and not damaged(output)


def damaged(output: Path) -> tuple[str, ...]:
    """The files of a published folder that are missing, changed, or too many."""
    try:
        listed = [line.split("  ", 1) for line in (output / SUMS).read_text().splitlines()]
        expected = {name: digest for digest, name in listed}
    except (OSError, ValueError):
        return (SUMS,)
    found = {str(path.relative_to(output)) for path in output.rglob("*") if not path.is_dir()} - {SUMS}
    wrong = found ^ expected.keys()
    wrong |= {name for name in found & expected.keys() if files.sha256(output / name) != expected[name]}
    return tuple(sorted(wrong))


def _read_manifest(output: Path) -> Mapping[str, object]:
    """{} for what is not a manifest of ours."""
    try:
        with (output / MANIFEST).open("rb") as file:
            found = json.loads(file.read(_LARGEST_DOCUMENT))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "schema" in found and "inputs" in found else {}


# ---------------------------------------------------------------- the image


def _flatten(overlay: Path, image: Path, *, compress: bool) -> None:
    """A copy that stands alone, proved equal to the overlay, sector by sector."""
    squeeze = ["-c"] if compress else []
    try:
        _qemu_img("convert", *squeeze, "-f", "qcow2", "-O", "qcow2", overlay.absolute(), image.absolute())
        _qemu_img("check", "-q", "-f", "qcow2", image.absolute())
        _qemu_img("compare", "-q", "-f", "qcow2", "-F", "qcow2", overlay.absolute(), image.absolute())
    except ProgramFailed as error:
        raise ApplyFailed(
            "the image could not be written out whole",
            why=f"qemu-img {error.finished.argv[1]}: {error.why}",
            fix=f"see whether {image.parent} is full, and run again",
        ) from error
    disk_image.preflight(image)


def _qemu_img(*words: str | Path) -> None:
    run(["qemu-img", *words], timeout=_CONVERT_TIMEOUT)


# ---------------------------------------------------------------- what lies beside it


def _documents(build: Build, staging: Path) -> set[str]:
    """Writes all of them; gives the names the folder must have now, and no others."""
    now, invocation, tools = datetime.now(UTC), str(uuid.uuid4()), _tools()
    image = _artifact(staging, IMAGE)
    (staging / "domain.xml").write_text(build.domain.template, encoding="utf-8")
    evidence = dict(_evidence(build))
    for name, source in evidence.items():
        (staging / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, staging / name)
    artifacts = (image, *(_artifact(staging, name) for name in ("domain.xml", *evidence)))
    documents = {
        MANIFEST: manifest.manifest(build, image, tools),
        "packer-manifest.json": manifest.packer_manifest(build, artifacts, at=now, run=invocation),
        "provenance.json": manifest.provenance(build, image, tools, at=now, run=invocation),
    }
    for name, content in documents.items():
        (staging / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    listed = sorted((*artifacts, *(_artifact(staging, name) for name in documents)), key=lambda one: one.name)
    (staging / SUMS).write_text(manifest.sums(tuple(listed)), encoding="utf-8")
    return {SUMS, *(one.name for one in listed)}


def _evidence(build: Build) -> Iterator[tuple[str, Path]]:
    """Name in the published folder, and where it is now."""
    if build.checks and build.checks.junit:
        yield "checks.xml", build.checks.junit
    for path in build.boot.evidence if build.boot else ():
        yield f"{_BOOT}/{path.name}", path


def _artifact(staging: Path, name: str) -> Artifact:
    path = staging / name
    return Artifact(name, files.sha256(path), path.stat().st_size)


def _require_only(names: set[str], staging: Path) -> None:
    found = {str(path.relative_to(staging)) for path in staging.rglob("*") if not path.is_dir()}
    if found != names:
        raise PublishConflict(
            "the folder to be published does not hold what it should", why=", ".join(sorted(found ^ names))
        )


def _tools() -> dict[str, str]:
    """The programs and libraries that made the image, with their versions."""
    qemu = run(["qemu-img", "--version"], timeout=60).stdout.decode(errors="replace").splitlines()[0]
    found = {"qemu-img": qemu.removeprefix("qemu-img version ")}
    try:
        import guestfs

        version = guestfs.GuestFS(python_return_dict=True).version()
        found["libguestfs"] = "{major}.{minor}.{release}".format_map(version)
    except ImportError:
        pass  # an image can be published where the appliance is not installed; it was built elsewhere then
    return found


# ---------------------------------------------------------------- the one step


def _require_same_file_system(one: Path, other: Path) -> None:
    if one.stat().st_dev != other.stat().st_dev:
        raise EnvironmentUnable(
            f"{one} and {other} are on different file systems",
            why="a folder can be put in its place in one step on one file system only",
        )


def _move(staging: Path, output: Path, *, force: bool) -> None:
    try:
        if force and output.is_dir():
            files.exchange(staging, output)
        else:
            staging.rename(output)  # an empty folder may stand there; anything else is ENOTEMPTY, never overwritten
    except OSError as error:
        if error.errno in _NOT_FREE:
            raise PublishConflict(f"{output} appeared while we worked", why=str(error)) from error
        raise EnvironmentUnable(
            f"{output} could not be put in its place", why=str(error), fix="remove the old output, and run again"
        ) from error
    files.sync(output.parent)
