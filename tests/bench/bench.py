"""`make bench`: commands timed as whole processes, on the embedded sample; medians of five runs after one warm-up.

Prints a table; run it on a quiet machine. KVM or not is said in the first line, because it decides everything.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from builder import sample
from builder.host import accelerator

RUNS = 5
FOLDER = Path("build/bench")


def seconds(argv: list[str]) -> float:
    start = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> None:
    made = sample.make(FOLDER)
    winfoundry = [sys.executable, "-m", "builder.cli"]
    commands = {
        "--help": [*winfoundry, "--help"],
        "inspect": [*winfoundry, "inspect", str(made.disk)],
        "plan": [*winfoundry, "plan", str(made.disk), "--virtio-win", str(made.drivers)],
    }
    print(f"accelerator: {accelerator.probe()}")
    print(f"{'command':12}{'median s':>10}{'min':>8}{'max':>8}")
    for name, argv in commands.items():
        seconds(argv)
        times = [seconds(argv) for _ in range(RUNS)]
        print(f"{name:12}{statistics.median(times):10.2f}{min(times):8.2f}{max(times):8.2f}")


if __name__ == "__main__":
    main()
