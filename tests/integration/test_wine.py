"""Wine's setupapi and crypt32 read what winfoundry reads and writes: implementations that share nothing with it.

The programs are tests/wine/*.c, built by mingw; they run in a Wine prefix of their own, one process for all INFs.
"""

import datetime
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.host.hive import open_file
from builder.host.media import open_media
from builder.model import Hive
from builder.windows import certificates, inf, inf_install, places
from builder.windows.drivers import select
from builder.windows.paths import MediaPath
from builder.windows.releases import Arch, by_name

SOURCES = Path(__file__).resolve().parents[1] / "wine"
COMPILER = "x86_64-w64-mingw32-gcc"
LIBRARIES = {"inf": "setupapi", "certificates": "crypt32"}
ASSOCIATED = 2  # SPSVCINST_ASSOCSERVICE
CA = "5C485F20BEF4A9DD77258A2F06D9386F18FB0696"  # cert/Virtio_Win_Red_Hat_CA.cer on the disc


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    """`wine("program.exe", …)`: what it printed, in a fresh prefix."""
    missing = [tool for tool in ("wine", "wineboot", "wineserver", COMPILER) if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (apt-test.txt)")
    folder = tmp_path_factory.mktemp("wine")
    for name, library in LIBRARIES.items():
        source = [str(SOURCES / f"{name}.c"), "-o", str(folder / f"{name}.exe"), f"-l{library}"]
        subprocess.run([COMPILER, "-O1", "-Wall", "-Wextra", "-Werror", *source], check=True)
    ours = {"WINEPREFIX": str(folder / "prefix"), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | ours

    def run(*words):
        done = subprocess.run(
            ["wine", *map(str, words)], cwd=folder, env=environment, capture_output=True, timeout=120, check=True
        )
        return done.stdout.decode().replace("\r\n", "\n")

    subprocess.run(["wineboot", "--init"], env=environment, capture_output=True, timeout=120, check=True)
    yield run
    subprocess.run(["wineserver", "--kill"], env=environment, check=False)
    subprocess.run(["wineserver", "--wait"], env=environment, check=False)
    shutil.rmtree(folder / "prefix")  # 700 MB


@dataclass
class Seen:
    """What setupapi made of one INF."""

    version: tuple[str, ...] = ()
    models: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)  # section -> (description, section, id, …)
    installs: dict[str, str] = field(default_factory=dict)  # install section -> the section that is used
    services: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)  # used section -> (service, flags, …)


def read(text):
    found = {}
    for line in text.splitlines():
        kind, *fields = line.split("\t")
        match kind:
            case "INF":
                seen = found[fields[0]] = Seen()
            case "VERSION":
                seen.version = tuple(fields)
            case "MODELS":
                seen.models[fields[0]] = []
            case "MODEL":
                seen.models[fields[0]].append(tuple(fields[1:]))
            case "INSTALL":
                seen.installs[fields[0]] = fields[1]
            case "SERVICE":
                rows = seen.services.setdefault(fields[0], [])
                rows += [] if tuple(fields[1:]) in rows else [tuple(fields[1:])]
            case _:
                raise AssertionError(line)
    return found


@pytest.fixture(scope="module")
def every(wine, virtio_win, tmp_path_factory):
    """(path, our Inf, the Windows its folder is for, what setupapi saw) of every INF of the disc."""
    infs = {}
    for path in sorted(virtio_win.rglob("*.inf")):
        name = path.relative_to(virtio_win)
        ((place,),) = places.find([MediaPath(name.parts)]).values() or [(None,)]
        infs[name] = place or places.Place(MediaPath(name.parts), name.parts[-3], Arch(name.parts[-2]))  # sriov
    lines = [f"NT{place.arch}\tZ:{virtio_win / name}" for name, place in infs.items()]
    listing = tmp_path_factory.mktemp("infs") / "list"
    listing.write_text("\n".join(lines) + "\n")
    seen = read(wine("inf.exe", listing))
    return [
        (name, inf.parse(str(name), (virtio_win / name).read_bytes()), target(place), seen[f"Z:{virtio_win / name}"])
        for name, place in infs.items()
    ]


def target(place):
    row = by_name(place.release)
    return inf_install.Target(place.arch, row.nt, row.builds[-1], row.server)


def test_setupapi_reads_every_inf(every):
    assert len(every) == 298
    assert all(seen.version and seen.models for *_, seen in every)


def test_versions_catalogues_and_classes_agree(every):
    for name, ours, windows, seen in every:
        version = inf_install.version(ours, windows.arch)
        date, number, catalogue, class_name, class_guid = seen.version
        assert version.date == datetime.datetime.strptime(date, "%m/%d/%Y").date().isoformat(), name
        assert (".".join(map(str, version.version)), version.catalog) == (number, catalogue), name
        assert (version.class_name, version.class_guid) == (class_name, class_guid.lower()), name


def fitting(section, windows):
    """Whether a models section's decoration is for this Windows, and how new it is: written anew, not inf_install's."""
    match = re.fullmatch(r"[^.]+(?:\.NT(x86|amd64|ARM64)(?:\.(\d+)\.(\d+))?)?", section, re.IGNORECASE)
    arch = (match[1] or "x86").lower()
    version = (int(match[2] or 0), int(match[3] or 0))
    return (bool(match[1]), version) if arch == windows.arch.lower() and version <= windows.nt else None


def test_the_models_section_is_the_newest_setupapi_finds(every, measured):
    several = 0
    for name, ours, windows, seen in every:
        ranked = [(rank, section) for section in seen.models if (rank := fitting(section, windows))]
        several += len(ranked) > 1
        assert inf_install.decoration(ours, windows).lower() == max(ranked)[1].lower(), name
    measured(f"INFs whose decorated models section agrees with Wine's setupapi: {len(every)} ({several} had a choice)")


def test_devices_ids_and_install_sections_agree(every, measured):
    devices = 0
    for name, ours, windows, seen in every:
        section = inf_install.decoration(ours, windows)
        found = [
            (one.description, one.section.lower(), one.hardware_id, *one.compatible_ids)
            for one in inf_install.devices(ours, windows)
        ]
        assert found == [
            (description, seen.installs[install].lower(), *(text.upper() for text in ids))
            for description, install, *ids in seen.models[section]
        ], name
        devices += len(found)
    measured(f"devices whose description, ids and install section agree with Wine's setupapi: {devices}")


def test_services_agree(every, measured):
    compared = 0
    for name, ours, windows, seen in every:
        section = inf_install.decoration(ours, windows)
        rows = [row for _, install, *_ in seen.models[section] for row in seen.services.get(seen.installs[install], ())]
        wanted = {
            row[0]: (*(int(number, 0) for number in row[2:5]), row[5].lower().removeprefix("c:\\windows\\"))
            for row in rows
            if row[0]
        }
        found = {
            one.name: (one.type, one.start, one.error_control, one.binary.lower())
            for one in inf_install.services(ours, windows)
        }
        assert found == wanted, name
        associated = {row[0] for row in rows if row[0] and int(row[1] or "0", 0) & ASSOCIATED}
        assert {one.service for one in inf_install.devices(ours, windows)} - {None} == associated, name
        compared += len(found)
    measured(f"services whose type, start, error control and binary agree with Wine's setupapi: {compared}")


# ---------------------------------------------------------------- certificates


def test_crypt32_finds_our_certificates_in_both_stores(wine, virtio_win, real_hive, tmp_path):
    """The real Windows 8.1 SOFTWARE hive, edited; hivexregedit carries the values over to the prefix."""
    software = tmp_path / "SOFTWARE"
    shutil.copyfile(real_hive("win81-x64/SOFTWARE"), software)
    with open_media(virtio_win) as disc:
        packages = select(disc, by_name("w8.1"), Arch.AMD64, 9600, {}).packages
    edits = {(edit.key, edit.name): edit for one in packages for edit in certificates.trust(one.signature)}
    assert {edit.hive for edit in edits.values()} == {Hive.SOFTWARE}
    hive = open_file(software, write=True)
    for edit in edits.values():
        hive.set(edit.key, edit.name, edit.value)
    hive.commit()
    before = stores(wine)
    assert CA not in before["Root"] | before["TrustedPublisher"]
    for store in ("ROOT", "TrustedPublisher"):
        key = rf"\Microsoft\SystemCertificates\{store}\Certificates\{CA}"
        prefix = r"HKEY_LOCAL_MACHINE\Software"
        argv = ["hivexregedit", "--export", "--unsafe-printable-strings", "--prefix", prefix, software, key]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        (tmp_path / f"{store}.reg").write_text(done.stdout)
        wine("regedit", "/S", f"Z:{tmp_path}/{store}.reg")
    after = stores(wine)
    assert {name: after[name] - before[name] for name in after} == {"Root": {CA}, "TrustedPublisher": {CA}}


def stores(wine):
    found = {"Root": set(), "TrustedPublisher": set()}
    for line in wine("certificates.exe", *found).splitlines():
        store, thumbprint = line.split()
        found[store].add(thumbprint)
    return found
