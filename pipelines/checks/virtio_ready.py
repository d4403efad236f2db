"""What an image must have so that Windows boots from virtio disks and finds its other virtio drivers by itself.

    winfoundry verify IMAGE
    pytest --hosts=guestfs://%2Fpath%2Fof%2Fimage.qcow2 virtio_ready.py

The image speaks for itself; with a manifest (beside it, or --winfoundry-manifest=FILE) it must also be what that says.
A host has the modules `file`, `registry_key`, `service`, `device`, `driver`, `drivers`, `bcd`, `certificate` and
`windows`; what each can tell is in `builder/checks/<module>.py`.
"""

import pytest

# What QEMU's virtio disks and controllers call themselves: transitional (machine "pc"), modern (machine "q35").
STORAGE = {
    "viostor": (
        r"PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00",
        r"PCI\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01",
    ),
    "vioscsi": (
        r"PCI\VEN_1AF4&DEV_1004&SUBSYS_00081AF4&REV_00",
        r"PCI\VEN_1AF4&DEV_1048&SUBSYS_11001AF4&REV_01",
    ),
}
OTHERS = {
    "netkvm": (r"PCI\VEN_1AF4&DEV_1000", r"PCI\VEN_1AF4&DEV_1041"),
    "balloon": (r"PCI\VEN_1AF4&DEV_1002", r"PCI\VEN_1AF4&DEV_1045"),
    "vioser": (r"PCI\VEN_1AF4&DEV_1003", r"PCI\VEN_1AF4&DEV_1043"),
    "viorng": (r"PCI\VEN_1AF4&DEV_1005", r"PCI\VEN_1AF4&DEV_1044"),
}
MACHINES = {"x86": b"\x4c\x01", "amd64": b"\x64\x86", "ARM64": b"\x64\xaa"}  # PE/COFF specification


@pytest.fixture(params=sorted(STORAGE))
def storage(request, host, winfoundry_manifest):
    """The name of a storage driver: both must be ready, unless the manifest claims only one."""
    if request.param not in claimed(winfoundry_manifest, made_for(host)):
        pytest.skip(f"{request.param} is not claimed for this {host.windows.title}")
    return request.param


@pytest.fixture
def drivers(host, winfoundry_manifest):
    """The packages the image must have: those of the manifest, else the virtio ones it has itself."""
    staged = {driver.name for driver in host.drivers} & {*STORAGE, *OTHERS}
    return [host.driver(name) for name in claimed(winfoundry_manifest, sorted(staged | made_for(host)))]


def made_for(host):
    """The storage drivers virtio-win has for this Windows."""
    return {"viostor"} if host.windows.release in ("xp", "2k3") else {"viostor", "vioscsi"}


def claimed(manifest, otherwise):
    return [one["name"] for one in manifest["drivers"]] if manifest else list(otherwise)


# ---------------------------------------------------------------- it boots from virtio


def test_storage_driver_starts_at_boot(host, storage):
    for control_set in host.windows.control_sets:
        service = host.service(storage, control_set=control_set)
        assert service.exists, f"{service} is missing"
        assert service.start_type == "boot", f"{service} starts at {service.start_type!r}"


def test_nothing_overrides_its_start(host, storage):
    for control_set in host.windows.control_sets:
        service = host.service(storage, control_set=control_set)
        assert not service.start_override, f"{service} has a StartOverride: Windows would stop with 0x7B"


def test_its_file_is_where_windows_looks(host, storage):
    for control_set in host.windows.control_sets:
        file = host.service(storage, control_set=control_set).image_file
        assert file.is_file, f"{file.path} is missing"
        header = file.content
        machine = header[int.from_bytes(header[60:64], "little") + 4 :][:2]
        assert machine == MACHINES[host.windows.architecture], f"{file.path} is for another processor"


def test_its_devices_lead_to_it(host, storage):
    for hardware_id in STORAGE[storage]:
        assert host.device(hardware_id).boot_service == storage, f"{hardware_id} is not bound to {storage}"


def test_the_kernel_can_read_its_package_entry(host, storage):
    if not host.windows.has_driver_database:
        return  # CriticalDeviceDatabase, before Windows 8, has no package entries
    label = host.driver(storage).label
    version = host.registry_key(rf"HKLM\SYSTEM\DriverDatabase\DriverPackages\{label}").value("Version")
    assert version is not None, f"{storage} has no package entry in the SYSTEM hive"
    assert len(version) == 48, f"its Version has {len(version)} bytes; Windows 10 accepts 48"


# ---------------------------------------------------------------- the packages


def test_packages_are_staged_whole(drivers):
    for driver in drivers:
        assert driver.exists, f"{driver} is not staged"
        assert driver.catalog.is_file, f"{driver} has no catalogue at {driver.catalog.path}"


def test_devices_lead_to_them(host, drivers):
    for driver in drivers if host.windows.has_driver_database else ():
        for hardware_id in OTHERS.get(driver.name, ()):
            assert driver.binds(hardware_id), f"{hardware_id} does not lead to {driver}"


def test_published_copies_are_those_of_the_package(host, drivers):
    if not host.windows.has_driver_database:
        return  # found through DevicePath, there are no published copies
    for driver in drivers:
        for copy, original in ((driver.published_inf, driver.inf), (driver.published_catalog, driver.catalog)):
            assert copy.is_file, f"{driver} is not published: {copy.path} is missing"
            assert copy.sha256sum == original.sha256sum, f"{copy.path} differs from {original.path}"


def test_packages_are_found_through_the_device_path(host, drivers):
    if host.windows.has_driver_database:
        return
    searched = host.registry_key(r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion").value("DevicePath") or ""
    folders = {one.strip().lower().replace("%systemroot%", r"c:\windows") for one in searched.split(";")}
    for driver in drivers:
        assert driver.store_folder.lower() in folders, f"DevicePath does not name {driver.store_folder}"


def test_packages_are_those_of_the_manifest(host, winfoundry_manifest):
    for expected in winfoundry_manifest.get("drivers", ()):
        found = host.driver(expected["name"])
        assert found.inf.sha256sum == expected["inf_sha256"], f"{found} has another INF"
        if host.windows.has_driver_database:
            assert found.version == expected["version"], f"{found} is version {found.version}"


# ---------------------------------------------------------------- signatures


def test_the_catalogue_vouches_for_every_driver(drivers):
    for driver in drivers:
        signature = driver.signature
        assert signature.signer not in ("unsigned", "broken"), f"{driver}: {signature.why}"


def test_test_mode_is_on_only_when_needed(host, drivers, winfoundry_manifest):
    needing = [driver.name for driver in drivers if driver.needs_test_mode]
    on = host.bcd.default["testsigning"]
    if winfoundry_manifest:
        assert on == winfoundry_manifest["test_signing"], f"test mode is {'on' if on else 'off'}"
        assert on or not needing, f"test mode is off, but needed by {', '.join(needing)}"
    else:
        assert on == bool(needing), f"test mode is {'on' if on else 'off'}, drivers that need it: {needing or 'none'}"


def test_signers_windows_does_not_know_are_trusted(host, drivers):
    for driver in drivers:
        signature = driver.signature
        if signature.signer == "test-signed":
            root, leaf = (host.certificate(one.thumbprint) for one in (signature.root, signature.leaf))
            assert root.in_store("ROOT"), f"{driver}: {signature.root.subject} is not trusted as a root"
            assert leaf.in_store("TrustedPublisher"), f"{driver}: {signature.leaf.subject} would make Windows ask"
