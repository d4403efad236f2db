"""`host.file(r"C:\\Windows\\System32\\ntoskrnl.exe")`: a file or folder on the system volume."""

from __future__ import annotations

from functools import cached_property

from builder.checks.image import Image
from builder.windows.paths import GuestPath


class File:
    """Found whatever the case of its name. Raises ValueError for what is no Windows path.

    >>> host.file(r"C:\\Windows\\System32\\drivers\\viostor.sys").exists
    True
    """

    def __init__(self, image: Image, path: str) -> None:
        self._image = image
        self._path = GuestPath.parse(path)

    def __repr__(self) -> str:
        return f"<file {self._path}>"

    @property
    def path(self) -> str:
        return str(self._path)

    @cached_property
    def _found(self) -> str | None:
        return self._image.find(self._path)

    @property
    def exists(self) -> bool:
        return self._found is not None

    @property
    def is_file(self) -> bool:
        return self._found is not None and self._image.appliance.is_file(self._found)

    @property
    def is_directory(self) -> bool:
        return self._found is not None and self._image.appliance.is_dir(self._found)

    @property
    def size(self) -> int:
        """In bytes."""
        return self._image.appliance.size(self._there())

    @property
    def sha256sum(self) -> str:
        return self._image.appliance.sha256(self._there())

    @property
    def content(self) -> bytes:
        """At most 64 MiB (InputRefused)."""
        return self._image.appliance.read(self._there())

    @property
    def content_string(self) -> str:
        """By its byte-order mark UTF-16 or UTF-8, else UTF-8; what does not decode becomes U+FFFD."""
        marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb": "utf-8-sig"}
        content = self.content
        return content.decode(marks.get(content[:2], "utf-8"), errors="replace")

    def listdir(self) -> list[str]:
        """The names in a folder."""
        return sorted(self._image.appliance.list(self._there()))

    def _there(self) -> str:
        if self._found is None:
            raise FileNotFoundError(str(self._path))
        return self._found
