"""Everything that can go wrong, as one tree; each error says what happened, why, and how to fix it.

    WinfoundryError          1   a bug, or an error of a kind not foreseen
    ├── ConfigError          2   flags or pipeline file
    ├── InputRefused         3   the image or the driver disc is not one we can work on
    │   └── NoDriver         3   the disc has no package for this Windows
    ├── EnvironmentUnable    4   a tool, a service, a permission or space is missing on this machine
    ├── ApplyFailed          5   the change could not be written, or did not read back
    ├── BootFailed           6   the built image did not come up
    ├── ChecksFailed         7   a check failed, or none ran
    ├── PublishConflict      8   the output exists and is not ours to replace
    └── Busy                75   somebody else holds the image; try again

What state things are in ("source untouched, nothing published") only the pipeline knows; the command line adds it.
"""

from __future__ import annotations


class WinfoundryError(Exception):
    """`what` happened in one line, `why`, and the `fix` the user can apply; both may be empty."""

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        rows = (("", self.what), ("why: ", self.why), ("fix: ", self.fix))
        return "\n  ".join(label + text for label, text in rows if text)


class ConfigError(WinfoundryError):
    exit_code = 2


class InputRefused(WinfoundryError):
    exit_code = 3


class NoDriver(InputRefused):
    pass


class EnvironmentUnable(WinfoundryError):
    exit_code = 4


class ApplyFailed(WinfoundryError):
    exit_code = 5


class BootFailed(WinfoundryError):
    exit_code = 6


class ChecksFailed(WinfoundryError):
    exit_code = 7


class PublishConflict(WinfoundryError):
    exit_code = 8


class Busy(WinfoundryError):
    exit_code = 75
