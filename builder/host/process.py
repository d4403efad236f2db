"""Programs of this machine are run through one function: argv lists, no shell, no terminal, bounded in time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import EnvironmentUnable

_KEPT_STDERR = 4000  # characters of a failed program's stderr shown to the user


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left: its exit code (negative: the signal that ended it) and its output."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: str


class ProgramFailed(EnvironmentUnable):
    """A program ended with a code other than zero, or did not end in time."""

    def __init__(self, finished: Finished, why: str) -> None:
        super().__init__(f"{finished.argv[0]} failed", why=why)
        self.finished = finished


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    input: bytes = b"",  # noqa: A002 - subprocess's own word
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Finished:
    """Runs `argv` for at most `timeout` seconds; `env` is added to ours, LC_ALL is C.UTF-8.

    The program gets a session of its own, and all of it is killed on timeout or when we are interrupted.
    Raises EnvironmentUnable when the program is not installed, ProgramFailed when `check` and it fails or is late.
    """
    words = tuple(map(str, argv))
    try:
        program = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise EnvironmentUnable(f"{words[0]} is not installed", fix="run `winfoundry doctor`") from error
    try:
        out, err = program.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(program)
        late = Finished(words, -signal.SIGKILL, b"", "")
        raise ProgramFailed(late, f"it did not finish within {timeout:.0f} seconds") from None
    except BaseException:
        _kill(program)
        raise
    finished = Finished(words, program.returncode, out, err.decode(errors="replace"))
    if check and finished.code:
        raise ProgramFailed(finished, finished.stderr.strip()[-_KEPT_STDERR:] or f"exit code {finished.code}")
    return finished


def _kill(program: subprocess.Popen[bytes]) -> None:
    os.killpg(program.pid, signal.SIGKILL)
    program.communicate()
