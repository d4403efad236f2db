"""What programs read: `inspect --json` is what its published schema says, the plan's JSON can be undone from."""

import json

import jsonschema
import phony
import pytest
from click.testing import CliRunner
from driver_discs import guest

from builder import inspection, resources, show
from builder.cli import cli
from builder.edits import Change, DeleteKey, Hive, SetValue, reverse
from builder.windows.registry import dword
from builder.windows.releases import RELEASES

SCHEMA = json.loads(resources.schema("inspect").read_text())


@pytest.mark.parametrize("row", RELEASES, ids=lambda row: row.name)
def test_every_release_is_told_as_the_schema_says(row):
    jsonschema.validate(show.guest_json(guest(row.name, row.arches[0])), SCHEMA)


def test_an_inspected_windows_is_told_as_the_schema_says(tmp_path):
    found = inspection.inspect(phony.Appliance(phony.Windows(tmp_path / "work")))
    told = show.guest_json(found)
    jsonschema.validate(told, SCHEMA)
    assert set(told) == set(SCHEMA["required"]) == set(SCHEMA["properties"])
    assert (told["release"], told["version"], told["build"]) == ("w10", "22H2", 19045)
    assert "Windows 10 22H2, build 19045" in show.guest_text(found)


def test_the_schema_knows_every_release():
    assert SCHEMA["properties"]["release"]["enum"] == [row.name for row in RELEASES]


def test_the_schema_can_be_had_without_an_image():
    done = CliRunner().invoke(cli, ["inspect", "--schema"])
    assert done.exit_code == 0
    assert json.loads(done.output) == SCHEMA


def test_reverse_edits_are_exact():
    key = ("ControlSet001", "Services", "viostor")
    changes = (
        Change(SetValue(Hive.SYSTEM, key, "Start", dword(0), ""), ""),
        Change(
            DeleteKey(Hive.SYSTEM, (*key, "StartOverride"), ""), "there", (((*key, "StartOverride"), "0", dword(3)),)
        ),
    )
    assert [show.undo_json(one) for one in reverse(changes)] == [
        {
            "hive": "SYSTEM",
            "key": r"ControlSet001\Services\viostor\StartOverride",
            "name": "0",
            "type": 4,
            "data": "03000000",
        },
        {"hive": "SYSTEM", "key": r"ControlSet001\Services\viostor", "name": "Start", "delete": True},
    ]
