"""The sample's driver disc, held against the real virtio-win tree."""

import datetime
import re

import pycdlib
import pytest

from builder.sample import catalogue, disc

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def tree():
    return disc.tree(catalogue.new_signer(NOW), NOW)


def infs(tree):
    return {path: content.decode("ascii") for path, content in tree.items() if path.endswith(".inf")}


def device_ids(inf: str) -> set[str]:
    return {found.upper() for found in re.findall(r"PCI\\[A-Z0-9_&]+", re.sub(r"(?m)^;.*", "", inf), re.IGNORECASE)}


def services(inf: str) -> set[str]:
    return set(re.findall(r"(?im)^AddService\s*=\s*(\w+)", inf))


def starts(inf: str) -> set[int]:
    constants = {"SERVICE_BOOT_START": 0, "SERVICE_DEMAND_START": 3}
    found = re.findall(r"(?im)^StartType\s*=\s*(\d|%\w+%)", inf)
    return {constants[one.strip("%")] if "%" in one else int(one) for one in found}


def test_packages_have_the_ids_services_and_start_types_of_virtio_win(tree, virtio_win):
    assert len(infs(tree)) == 6
    for path, ours in infs(tree).items():
        real = (virtio_win / path).read_text(encoding="latin-1")
        for facts in (device_ids, services, starts):
            assert facts(ours) == facts(real), path


def test_packages_are_complete(tree):
    for path, text in infs(tree).items():
        folder, _, name = path.rpartition("/")
        stem = name.removesuffix(".inf")
        assert {f"{folder}/{stem}.sys", f"{folder}/{stem}.cat"} <= tree.keys()
        assert f"CatalogFile = {stem}.cat" in text


def test_infs_have_windows_line_ends_only(tree):
    for content in (tree[path] for path in infs(tree)):
        assert content.count(b"\n") == content.count(b"\r\n") > 50


def test_iso_can_be_read_back(tree, tmp_path):
    target = tmp_path / "disc.iso"
    disc.write_iso(tree, target, disc.VOLUME_ID)
    iso = pycdlib.PyCdlib()
    iso.open(str(target))
    found = {}
    for folder, _, names in iso.walk(rr_path="/"):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            with iso.open_file_from_iso(rr_path=path) as file:
                found[path[1:]] = file.read()
    assert found == tree
    assert iso.pvd.volume_identifier.decode().strip() == "winfoundry-sample-drivers"
    iso.close()
