"""virtio_ready on a disk: a child pytest, the real appliance, the real hives of a phony Windows."""

import json

import phony
import pytest

from builder import show
from builder.verify import verify


@pytest.mark.appliance
def test_a_ready_disk_passes_and_is_only_read(tmp_path):
    windows = phony.Windows(tmp_path / "work")
    plan = windows.build(phony.Drivers())
    disk = windows.on_disk(tmp_path / "a phony, Windows.qcow2")
    manifest = tmp_path / "plan.json"
    manifest.write_text(json.dumps(show.plan_json(plan, ())))
    before = disk.read_bytes()
    report = verify(disk, ["virtio_ready"], evidence=tmp_path / "evidence", manifest=manifest)
    assert report.ok, report.junit.read_text()
    assert report.passed >= 15
    assert not report.skipped
    assert disk.read_bytes() == before
