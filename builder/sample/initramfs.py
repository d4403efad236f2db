"""The Linux of the NT stand-in: Debian's kernel, and an initramfs made of programs and modules of this machine.

Which programs, from which apt packages, is the table below; their libraries come from ldd, the modules' dependencies
from modules.dep. `stand_in.sh` is its /init and says what it does there.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from builder.errors import EnvironmentUnable
from builder.host.process import run

_PROGRAMS = {  # program -> apt package
    "busybox": "busybox-static",
    "hivexsh": "libhivex-bin",
    "lowntfs-3g": "ntfs-3g",
    "osslsigncode": "osslsigncode",
    "qemu-ga": "qemu-guest-agent",
}
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # qemu-ga is not on a user's PATH
_MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_scsi", "ahci", "ata_piix", "sd_mod"),
    *("fuse", "vfat", "nls_cp437", "nls_ascii"),
    *("virtio_console", "virtio_balloon", "virtio_rng", "virtio_net", "e1000", "e1000e"),
    *("pvpanic_mmio", "pvpanic_pci", "button", "evdev"),
)
_OS_RELEASE = """\
NAME="NT stand-in"
ID=nt-stand-in
VERSION_ID=1
PRETTY_NAME="NT stand-in 1 (a Linux that applies Windows' boot rules; not Windows)"
"""
_UDHCPC = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/${mask:-24}" dev "$interface"
[ -n "$router" ] && ip route add default via "$router"
"""
# glibc converts the UTF-16LE and Latin-1 names of hives with loadable modules, found through this file.
_GCONV = "module UTF-16LE// INTERNAL UTF-16 1\nmodule INTERNAL UTF-16LE// UTF-16 1\n" + (
    "alias LATIN1// ISO-8859-1//\nmodule ISO-8859-1// INTERNAL ISO8859-1 1\nmodule INTERNAL ISO-8859-1// ISO8859-1 1\n"
)
_TEXTS = {
    "etc/os-release": _OS_RELEASE,
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\n",
    "etc/group": "root:x:0:\n",
}
_SCRIPTS = {"sbin/shutdown": "#!/bin/sh\nexec poweroff -f\n", "etc/udhcpc.sh": _UDHCPC}
_FOLDERS = ("proc", "sys", "dev", "mnt", "tmp", "run", "etc", "sbin", "bin")
_LINKS = {"lib": "usr/lib", "lib64": "usr/lib64"}  # as on Debian


@dataclass(frozen=True, slots=True)
class Linux:
    """A kernel (bzImage) and its initramfs (gzipped cpio)."""

    kernel: bytes
    initramfs: bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file, link or folder of the archive: its st_mode, and its content or target."""

    mode: int
    content: bytes = b""


def stand_in(inbox: Mapping[str, bytes]) -> Linux:
    """The NT stand-in; `inbox` are the drivers it takes for Windows' own, name -> content.

    Raises EnvironmentUnable, naming the apt package, when something of this machine is missing.
    """
    kernel = _newest_kernel()
    known = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in inbox.items())
    script = resources.files(__package__).joinpath("stand_in.sh").read_bytes()
    entries = {
        **{folder: _Entry(0o40755) for folder in _FOLDERS},
        **{path: _Entry(0o120777, target.encode()) for path, target in _LINKS.items()},
        **{path: _Entry(0o100644, text.encode()) for path, text in {**_TEXTS, "etc/inbox.sha256": known}.items()},
        **{path: _Entry(0o100755, text.encode()) for path, text in _SCRIPTS.items()},
        "init": _Entry(0o100755, script),
        **dict(_programs()),
        **dict(_modules(kernel.name.removeprefix("vmlinuz-"))),
    }
    return Linux(kernel.read_bytes(), gzip.compress(_cpio(entries), 6, mtime=0))


def _newest_kernel() -> Path:
    kernels = [path for path in Path("/boot").glob("vmlinuz-*") if Path("/lib/modules", path.name[8:]).is_dir()]
    if not kernels:
        raise _missing("a Linux kernel in /boot with its modules", "linux-image-amd64")
    newest = max(kernels, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    try:
        newest.open("rb").close()
    except PermissionError as error:
        raise EnvironmentUnable(f"{newest} cannot be read", why=str(error), fix=f"chmod 0644 {newest}") from error
    return newest


def _missing(what: str, package: str) -> EnvironmentUnable:
    return EnvironmentUnable(f"{what} is missing", why="the sample is made of it", fix=f"apt-get install {package}")


def _programs() -> Iterator[tuple[str, _Entry]]:
    for name, package in _PROGRAMS.items():
        path = shutil.which(name, path=_SEARCH_PATH)
        if path is None:
            raise _missing(name, package)
        yield f"bin/{name}", _Entry(0o100755, Path(path).read_bytes())
        if name == "busybox":
            applets = run([path, "--list"], timeout=10).stdout.decode().split()
            yield from ((f"bin/{applet}", _Entry(0o120777, b"busybox")) for applet in applets if applet != "busybox")
        yield from _libraries(path)


def _libraries(program: str) -> Iterator[tuple[str, _Entry]]:
    """What ldd names, which is nothing for a static program; and beside libc, the two converters hivex uses."""
    listed = run(["ldd", program], timeout=10, check=False).stdout.decode()
    for found in re.findall(r"(/\S+) \(0x", listed):
        path = Path(found)
        yield from _placed(path)
        if path.name == "libc.so.6":
            gconv = path.parent / "gconv"
            yield from (pair for name in ("UTF-16.so", "ISO8859-1.so") for pair in _placed(gconv / name))
            yield str(gconv.resolve() / "gconv-modules")[1:], _Entry(0o100644, _GCONV.encode())


def _placed(path: Path) -> Iterator[tuple[str, _Entry]]:
    """The file under its own name, after the folders above it; folders that are links are followed, the file is not."""
    real = path.parent.resolve() / path.name
    yield from ((str(folder)[1:], _Entry(0o40755)) for folder in reversed(real.parents[:-1]))
    yield str(real)[1:], _Entry(0o100755, path.read_bytes())


def _modules(version: str) -> Iterator[tuple[str, _Entry]]:
    """The modules with all they depend on, and the parts of modules.dep and modules.alias that are about them."""
    home = Path("/lib/modules", version)
    dependencies = dict(line.split(":", 1) for line in (home / "modules.dep").read_text().splitlines())
    paths = {_module_name(path): path for path in dependencies}
    built_in = {_module_name(path) for path in (home / "modules.builtin").read_text().split()}
    absent = [name for name in _MODULES if name not in paths.keys() | built_in]
    if absent:
        raise _missing(f"module {absent[0]} of the kernel {version}", "linux-image-amd64")
    chosen = [paths[name] for name in _MODULES if name in paths]
    needed = {path: dependencies[path].split() for path in sorted({*chosen, *_needed(chosen, dependencies)})}
    # All in one folder: modprobe finds them by modules.dep.
    files = {Path(path).name: (home / path).read_bytes() for path in needed}
    files["modules.dep"] = "".join(_dependency_line(path, needed[path]) for path in needed).encode()
    names = {_module_name(path) for path in needed}
    aliases = (home / "modules.alias").read_text().splitlines(keepends=True)
    files["modules.alias"] = "".join(line for line in aliases if line.split()[-1] in names).encode()
    folder = f"usr/lib/modules/{version}"
    yield from ((at, _Entry(0o40755)) for at in ("usr/lib/modules", folder))
    yield from ((f"{folder}/{name}", _Entry(0o100644, content)) for name, content in files.items())


def _needed(paths: Iterable[str], dependencies: Mapping[str, str]) -> Iterator[str]:
    """depmod lists the dependencies of dependencies too."""
    for path in paths:
        yield from dependencies[path].split()


def _dependency_line(path: str, needed: Iterable[str]) -> str:
    return f"{Path(path).name}: {' '.join(Path(one).name for one in needed)}\n"


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def _cpio(entries: Mapping[str, _Entry]) -> bytes:
    """An archive in "newc" format, after the kernel's driver-api/early-userspace/buffer-format.rst."""
    records = [_record(number, path, entry) for number, (path, entry) in enumerate(entries.items(), 1)]
    return b"".join([*records, _record(0, "TRAILER!!!", _Entry(0))])


def _record(number: int, path: str, entry: _Entry) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if entry.mode & 0o40000 else 1  # a folder
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 4) * 4, b"\0")
