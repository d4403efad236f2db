"""Where on a driver disc the INFs lie, and for which Windows their folders are named.

viostor/w10/amd64/viostor.inf           virtio-win's disc, and `by-driver` of its RPM
amd64/w10/viostor.inf                   flattened: the disc's second copies, and `by-os` of the RPM
amd64/acme.inf, acme.inf                a single driver: its folder names no Windows, so the INF alone decides
driver_folders/1/acme/...               folders added to a disc, each in any of these layouts
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.model import ADDED
from builder.windows.paths import MediaPath
from builder.windows.releases import RELEASES, Arch

_ARCHES = {"x86": Arch.X86, "i386": Arch.X86, "amd64": Arch.AMD64, "x64": Arch.AMD64, "arm64": Arch.ARM64}
_RELEASE_NAMES = {row.name.lower(): row.name for row in RELEASES}
_LEFT_ALONE = frozenset({"sriov", "debug"})  # virt-v2v leaves them too: VF protocol driver, debug builds


@dataclass(frozen=True, slots=True)
class Place:
    """An INF, and the release and architecture its folders are named for, each None when they name none."""

    path: MediaPath
    release: str | None
    arch: Arch | None
    flattened: bool = False

    @property
    def added(self) -> bool:
        """The user added its folder to the disc."""
        return is_added(self.path)

    def serves(self, release: str | None, arch: Arch) -> bool:
        return self.release == release and self.arch in (arch, None)

    def __str__(self) -> str:
        return f"{self.release or 'any Windows'}/{self.arch or 'any architecture'}"


def is_added(path: MediaPath) -> bool:
    return path.parts[0] == ADDED


def find(files: Iterable[MediaPath]) -> Mapping[str, tuple[Place, ...]]:
    """INF stem, lower-case -> where it is.

    Added folders stand in for the disc. Where any folder is named for a Windows, the others are not considered, and
    flattened copies count only for a Windows that has no other.
    """
    found: dict[str, tuple[Place, ...]] = {}
    for path in files:
        if path.name.lower().endswith(".inf") and not _LEFT_ALONE & {part.lower() for part in path.folder}:
            stem = path.name.lower().removesuffix(".inf")
            found[stem] = (*found.get(stem, ()), _place(path))
    return {stem: _considered(places) for stem, places in found.items()}


def _place(path: MediaPath) -> Place:
    outer, inner = ("", "", *(part.lower() for part in path.folder))[-2:]
    if outer in _ARCHES and inner in _RELEASE_NAMES:
        return Place(path, _release(inner, _ARCHES[outer]), _ARCHES[outer], flattened=True)
    if inner in _ARCHES:
        return Place(path, _release(outer, _ARCHES[inner]), _ARCHES[inner])
    return Place(path, _RELEASE_NAMES.get(inner), None)


def _release(name: str, arch: Arch) -> str | None:
    """xp/amd64 is Windows XP x64, which is another release: a 5.2 kernel."""
    return "xp64" if (name, arch) == ("xp", Arch.AMD64) else _RELEASE_NAMES.get(name)


def _considered(places: tuple[Place, ...]) -> tuple[Place, ...]:
    chosen = tuple(one for one in places if one.added) or places
    named = tuple(one for one in chosen if one.release) or chosen
    own = {(one.release, one.arch) for one in named if not one.flattened}
    return tuple(one for one in named if not (one.flattened and (one.release, one.arch) in own))
