"""What a driver disc offers, whatever a build would do about it: for one Windows, or everything.

offers(media, by_name("w10"), Arch.AMD64, 19045)   each driver of the disc, as this Windows sees it
everything(media)                                  each INF, as the Windows its folder is named for sees it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import InputRefused
from builder.model import DriverPackage, Media
from builder.windows import drivers, inf_install
from builder.windows.inf import Inf
from builder.windows.inf_install import Target
from builder.windows.package import Shelf, load, read_inf, shelf
from builder.windows.places import Place, find
from builder.windows.releases import RELEASES, Arch, Release, by_name
from builder.windows.signatures import Verdict

_NEWEST = {Arch.X86: "w10", Arch.AMD64: "w11", Arch.ARM64: "w11"}
"""The newest Windows people have, tried first for an INF whose folder names none."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A driver for a Windows: its package, or why it cannot be one. `release` is None for an INF that is for none."""

    name: str
    release: Release | None
    arch: Arch | None
    package: DriverPackage | None
    why: str = ""

    @property
    def windows(self) -> str:
        """ "w10/amd64" """
        return f"{self.release.name}/{self.arch}" if self.release else ""

    @property
    def verdict(self) -> Verdict:
        """What that Windows does with it."""
        if self.package is None or self.release is None:
            return Verdict.REFUSED
        return drivers.verdict(self.package, self.release)


def offers(media: Media, release: Release, arch: Arch, build: int) -> Iterator[Offer]:
    """Each driver on the media, in the order of their names."""
    disc = shelf(media)
    target = drivers.target(release, arch, build)
    for name, places in sorted(find(media.files()).items()):
        try:
            yield Offer(name, release, arch, drivers.choose(disc, places, name, release, target))
        except InputRefused as error:
            yield Offer(name, release, arch, None, error.what)


def everything(media: Media) -> Iterator[Offer]:
    """Each INF on the media; one whose folder names no Windows as the newest Windows it is decorated for sees it."""
    disc = shelf(media)
    for name, places in sorted(find(media.files()).items()):
        for place in places:
            try:
                yield from _offers(disc, name, place)
            except InputRefused as error:
                yield Offer(name, by_name(place.release) if place.release else None, place.arch, None, error.what)


def _offers(disc: Shelf, name: str, place: Place) -> Iterator[Offer]:
    inf = read_inf(disc, place.path)
    found = [
        (row, target)
        for arch in ((place.arch,) if place.arch else Arch)
        for row, target in _newest(inf, place.release, arch)
    ]
    if not found:
        raise InputRefused(f"{place.path} is decorated for no such Windows")
    for row, target in found:
        because = f"INF decorated {inf_install.decoration(inf, target)}"
        yield Offer(name, row, target.arch, load(disc, place.path, inf, target, because))


def _newest(inf: Inf, release: str | None, arch: Arch) -> list[tuple[Release, Target]]:
    """The newest Windows of an architecture that the INF is for, as a list of one; [] when it is for none."""
    last = RELEASES.index(by_name(_NEWEST[arch])) + 1
    rows = (by_name(release),) if release else (*reversed(RELEASES[:last]), *reversed(RELEASES[last:]))
    targets = ((row, drivers.target(row, arch, row.builds[-1])) for row in rows)
    return [pair for pair in targets if inf_install.devices(inf, pair[1])][:1]
