"""The Windows modules of the pytest plugin, and what virtio_ready notices: on a phony Windows, without an appliance."""

import json
import shutil
from contextlib import contextmanager

import phony
import pytest
import testinfra

from builder import resources, show
from builder.checks import backend, image
from builder.checks.certificate import Certificate
from builder.host import appliance
from builder.model import DeleteKey, Hive, SetValue
from builder.windows.registry import binary, dword, expand_sz, sz

pytest_plugins = "pytester"
VIRTIO_READY = resources.pipelines() / "checks" / "virtio_ready.py"


@pytest.fixture(scope="module")
def drivers():
    return phony.Drivers()


@pytest.fixture(scope="module")
def built_once(drivers, tmp_path_factory):
    windows = phony.Windows(tmp_path_factory.mktemp("phony"))
    return windows, windows.build(drivers)


@pytest.fixture
def built(built_once, tmp_path):
    """A virtio-ready phony Windows, to be changed at will."""
    windows = object.__new__(phony.Windows)
    windows.work = tmp_path / "work"
    shutil.copytree(built_once[0].work, windows.work)
    windows.files = dict(built_once[0].files)
    return windows


@pytest.fixture
def launched(monkeypatch):
    """`launched(windows)` makes every image that of `windows`; `launched.count` counts the launches."""

    def use(windows):
        @contextmanager
        def launch(disk, **_):
            use.count += 1
            yield phony.Appliance(windows)

        monkeypatch.setattr(appliance, "launch", launch)

    use.count = 0
    monkeypatch.setitem(testinfra.backend.BACKENDS, "guestfs", "builder.checks.backend.GuestfsBackend")
    yield use
    image.close_all()


@pytest.fixture
def host(built, launched, tmp_path):
    launched(built)
    return testinfra.get_host(backend.host_spec(tmp_path / "phony windows,1.qcow2"))


# ---------------------------------------------------------------- the modules


def test_a_host_is_named_by_the_path_of_its_image(tmp_path):
    disk = tmp_path / "a b,c?#.qcow2"
    assert backend.GuestfsBackend(backend.host_spec(disk).removeprefix("guestfs://")).disk == disk


def test_a_relative_path_is_refused_with_the_right_spelling():
    with pytest.raises(ValueError, match="absolute path: write guestfs://%2F"):
        backend.GuestfsBackend("windows.qcow2")


def test_file(host, built):
    kernel = host.file(r"C:\WINDOWS\system32\NTOSKRNL.EXE")
    content = built.files["/c/Windows/System32/ntoskrnl.exe"]
    assert kernel.exists
    assert kernel.is_file
    assert not kernel.is_directory
    assert kernel.size == len(content)
    assert kernel.content == content
    assert len(kernel.sha256sum) == 64
    assert host.file(r"C:\Windows\inf").is_directory
    assert "mshdc.inf" in host.file(r"C:\Windows\INF").listdir()


def test_a_missing_file_is_nothing_in_particular(host):
    missing = host.file(r"C:\Windows\nothing.here")
    assert (missing.exists, missing.is_file, missing.is_directory) == (False, False, False)
    with pytest.raises(FileNotFoundError, match=r"C:\\Windows\\nothing\.here"):
        _ = missing.content


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_by_its_byte_order_mark(host, built, encoding):
    built.files["/c/Windows/note.txt"] = "Grüße\r\n".encode(encoding)
    assert host.file(r"C:\Windows\note.txt").content_string == "Grüße\r\n"


def test_registry_key(host):
    key = host.registry_key(r"HKLM\SYSTEM\CurrentControlSet\services\VIOSTOR")
    assert key.exists
    assert key.value("start") == 0
    assert key.value("ImagePath") == r"System32\drivers\viostor.sys"
    assert key.values["Group"].lower() == "scsi miniport"
    assert "Parameters" in key.subkeys
    assert key.value("NoSuchValue") is None


def test_registry_values_are_python_values(host):
    database = "HKEY_LOCAL_MACHINE\\SYSTEM\\DriverDatabase"
    assert host.registry_key(rf"{database}\DriverInfFiles\mshdc.inf").value("") == ["mshdc.inf_amd64_00112233aabbccdd"]
    assert host.registry_key(rf"{database}\DeviceIds\PCI\CC_0106").value("mshdc.inf") == b"\x01\xff\x00\x00"
    version = host.registry_key(r"HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion")
    assert version.value("CurrentMajorVersionNumber") == 10


def test_a_missing_key_is_empty(host):
    missing = host.registry_key(r"HKLM\SYSTEM\CurrentControlSet\Services\nothing")
    assert (missing.exists, missing.subkeys, missing.values) == (False, [], {})


@pytest.mark.parametrize("path", [r"HKLM\SYSTM\Select", r"SYSTEM\Select", "HKLM", r"HKLM\SYSTEM\\Select", r"HKU\x"])
def test_a_misspelt_key_is_an_error_not_an_absent_key(host, path):
    with pytest.raises(ValueError, match="does not start with one of HKLM"):
        host.registry_key(path)


def test_service(host):
    service = host.service("viostor")
    assert service.exists
    assert service.start_type == "boot"
    assert service.is_enabled
    assert not service.start_override
    assert service.image_file.exists
    assert not host.service("nothing").exists
    assert host.service("nothing").start_type == ""


def test_a_service_is_asked_for_in_each_control_set(host, built):
    built.edit(SetValue(Hive.SYSTEM, ("ControlSet002", "Services", "viostor"), "Start", dword(3), ""))
    starts = [host.service("viostor", control_set=one).start_type for one in host.windows.control_sets]
    assert starts == ["boot", "demand"]


@pytest.mark.parametrize(
    "path",
    [
        r"System32\drivers\viostor.sys",
        r"\SystemRoot\System32\drivers\viostor.sys",
        r"%SystemRoot%\system32\DRIVERS\viostor.sys",
        r"\??\C:\Windows\System32\drivers\viostor.sys",
        "",
    ],
)
def test_image_paths_are_understood_as_the_kernel_does(host, built, path):
    built.edit(SetValue(Hive.SYSTEM, ("ControlSet001", "Services", "viostor"), "ImagePath", expand_sz(path), ""))
    assert host.service("viostor").image_file.is_file


def test_device(host):
    modern = host.device(r"PCI\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01")
    assert modern.boot_service == "viostor"
    assert host.device(r"PCI\VEN_8086&DEV_2922&CC_0106").boot_service == ""
    assert host.device(r"PCI\VEN_1AF4&DEV_FFFF&SUBSYS_00001AF4&REV_00").service == ""


def test_driver(host, built_once):
    package = next(one for one in built_once[1].selection.packages if one.name == "netkvm")
    driver = host.driver("NetKVM")
    assert driver.exists
    assert driver.label == package.label
    assert driver.version == package.version_text
    assert driver.catalog.exists
    assert driver.published_catalog.sha256sum == driver.catalog.sha256sum
    assert driver.published_inf.sha256sum == package.inf.sha256
    assert driver.binds(r"PCI\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01")
    assert not driver.binds(r"PCI\VEN_1AF4&DEV_1042")
    assert driver.signature.signer == "test-signed"
    assert driver.needs_test_mode
    assert not host.driver("nothing").exists


def test_a_package_without_kernel_code_needs_no_test_mode(host, built):
    (program,) = (name for name in built.files if "FileRepository/netkvm.inf_" in name and name.endswith(".sys"))
    del built.files[program]
    driver = host.driver("netkvm")
    assert driver.signature.signer == "test-signed"
    assert not driver.needs_test_mode


def test_drivers_are_the_third_party_packages(host, built_once):
    assert [one.name for one in host.drivers] == sorted(one.name for one in built_once[1].selection.packages)


def test_before_windows_8_other_keys_and_folders_count(host, built):
    critical = ("ControlSet001", "Control", "CriticalDeviceDatabase", "pci#ven_1af4&dev_1001")
    version = ("Microsoft", "Windows NT", "CurrentVersion")
    built.edit(
        *(DeleteKey(hive, ("DriverDatabase",), "") for hive in (Hive.SYSTEM, Hive.DRIVERS)),
        SetValue(Hive.SYSTEM, critical, "Service", sz("viostor"), ""),
        *(SetValue(Hive.SOFTWARE, version, name, sz("7601"), "") for name in ("CurrentBuild", "CurrentBuildNumber")),
    )
    folder = "/c/Windows/Drivers/winfoundry/viostor"
    built.files |= {f"{folder}/viostor.inf": b"", f"{folder}/VioStor.cat": b""}
    driver = host.driver("viostor")
    assert host.windows.release == "w7"
    assert not host.windows.has_driver_database
    assert host.device(r"PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00").boot_service == "viostor"
    assert host.device(r"PCI\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01").boot_service == ""
    assert driver.exists
    assert driver.catalog.path == r"C:\Windows\Drivers\winfoundry\viostor\VioStor.cat"
    assert [one.name for one in host.drivers] == ["viostor"]


def test_bcd(host, built):
    loader = host.bcd.default
    assert loader.identifier == phony.LOADER
    assert loader["testsigning"] is True
    assert loader["nointegritychecks"] is False
    assert "nointegritychecks" not in loader
    assert loader["path"] == r"\Windows\system32\winload.exe"
    assert loader["nx"] == 0
    assert loader["inherit"] == ["{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"]
    assert [one.description for one in host.bcd.loaders] == ["Windows 10"]
    with pytest.raises(KeyError, match="loadoptions is not set"):
        _ = loader["loadoptions"]


def test_certificate(host, built_once):
    root, leaf = built_once[1].trusted
    assert host.certificate(root.thumbprint.lower()).in_store("ROOT")
    assert host.certificate(leaf.thumbprint).in_store("TrustedPublisher")
    assert not host.certificate(leaf.thumbprint).in_store("ROOT")


def test_a_certificate_under_a_false_name_is_not_trusted(host, built, built_once):
    root = built_once[1].trusted[0]
    path = ("Microsoft", "SystemCertificates", "ROOT", "Certificates", "0" * 40)
    blob = host.registry_key("HKLM\\SOFTWARE\\" + "\\".join((*path[:-1], root.thumbprint))).value("Blob")
    built.edit(SetValue(Hive.SOFTWARE, path, "Blob", binary(blob), ""))
    assert not Certificate(image.at(host.backend.disk), "0" * 40).in_store("ROOT")


def test_windows(host):
    windows = host.windows
    assert (windows.release, windows.build, windows.edition) == ("w10", 19045, "Professional")
    assert (windows.architecture, windows.firmware) == ("amd64", "bios")
    assert windows.control_sets == ("ControlSet001", "ControlSet002")
    assert (host.system_info.type, host.system_info.release) == ("windows", "10.0.19045")


@pytest.mark.parametrize(
    "question",
    [
        lambda host: host.run("ver"),
        lambda host: host.check_output("hostname"),
        lambda host: host.service("viostor").is_running,
        lambda host: host.registry_key(r"HKLM\HARDWARE\ACPI"),
        lambda host: host.registry_key(r"HKCU\Software"),
        lambda host: host.process.filter(comm="lsass"),
    ],
)
def test_what_a_disk_cannot_tell_is_skipped_and_says_why(host, question):
    with pytest.raises(pytest.skip.Exception, match="needs a running guest"):
        question(host)


# ---------------------------------------------------------------- virtio_ready


@pytest.fixture(autouse=True)
def named_plugins_only(monkeypatch):
    """Whether or not winfoundry is installed: its plugin cannot be loaded both by name and by its entry point."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def run(pytester, launched):
    """`run(windows, *options)` runs virtio_ready as a user's pytest would: its reports by outcome."""

    def check(windows, *options, file=VIRTIO_READY):
        launched(windows)
        disk = pytester.path / "phony.qcow2"
        plugins = ("-p", "testinfra.plugin", "-p", "builder.checks.plugin", "-p", "no:cacheprovider")
        done = pytester.inline_run(file, *plugins, f"--hosts={backend.host_spec(disk)}", *options)
        passed, skipped, failed = done.listoutcomes()
        return {
            name: [report.nodeid.split("::")[-1] for report in reports]
            for name, reports in (("passed", passed), ("skipped", skipped), ("failed", failed))
        }

    return check


def failed_tests(outcome):
    return {name.split("[")[0] for name in outcome["failed"]}


def test_a_ready_image_passes_with_one_launch(run, built, launched):
    outcome = run(built)
    assert not outcome["failed"]
    assert not outcome["skipped"]
    assert len(outcome["passed"]) >= 15
    assert launched.count == 1


def test_a_ready_image_passes_with_the_plan_it_was_made_by(run, built, built_once, pytester):
    plan = pytester.path / "plan.json"
    plan.write_text(json.dumps(show.plan_json(built_once[1], ())))
    outcome = run(built, f"--winfoundry-manifest={plan}")
    assert outcome["passed"]
    assert not outcome["failed"]


def test_the_manifest_beside_the_image_counts(run, built, built_once, pytester):
    expected = show.plan_json(built_once[1], ())
    expected["drivers"][0]["version"] = "1.2.3.4"
    (pytester.path / "manifest.json").write_text(json.dumps(expected))
    assert failed_tests(run(built)) == {"test_packages_are_those_of_the_manifest"}


def test_an_untouched_windows_fails(run, tmp_path):
    outcome = run(phony.Windows(tmp_path / "untouched"))
    assert {
        "test_storage_driver_starts_at_boot",
        "test_its_file_is_where_windows_looks",
        "test_its_devices_lead_to_it",
        "test_packages_are_staged_whole",
    } <= failed_tests(outcome)


def without(*paths):
    def remove(windows):
        for name in [name for name in windows.files if any(path in name.lower() for path in paths)]:
            del windows.files[name]

    return remove


def changed(path, change):
    def apply(windows):
        name = next(name for name in windows.files if path in name.lower())
        windows.files[name] = change(windows.files[name])

    return apply


def edited(*edits):
    return lambda windows: windows.edit(*edits)


VIOSTOR = ("ControlSet002", "Services", "viostor")
ELEMENT = ("Objects", phony.LOADER, "Elements", "16000049")
STORES = ("Microsoft", "SystemCertificates")
SABOTAGE = {
    "start in the other control set": (
        edited(SetValue(Hive.SYSTEM, VIOSTOR, "Start", dword(3), "")),
        {"test_storage_driver_starts_at_boot"},
    ),
    "StartOverride": (
        edited(SetValue(Hive.SYSTEM, (*VIOSTOR, "StartOverride"), "0", dword(3), "")),
        {"test_nothing_overrides_its_start"},
    ),
    "driver file gone": (without("drivers/viostor.sys"), {"test_its_file_is_where_windows_looks"}),
    "driver for x86": (
        changed("drivers/viostor.sys", lambda data: data.replace(b"PE\0\0\x64\x86", b"PE\0\0\x4c\x01")),
        {"test_its_file_is_where_windows_looks"},
    ),
    "modern device unbound": (
        edited(
            *(
                DeleteKey(Hive.SYSTEM, ("DriverDatabase", "DeviceIds", "PCI", f"VEN_1AF4&DEV_1048{rest}"), "")
                for rest in ("", "&SUBSYS_11001AF4", "&SUBSYS_11001AF4&REV_01")
            )
        ),
        {"test_its_devices_lead_to_it"},
    ),
    "network card unbound": (
        edited(
            *(
                DeleteKey(hive, ("DriverDatabase", "DeviceIds", "PCI", "VEN_1AF4&DEV_1041"), "")
                for hive in (Hive.SYSTEM, Hive.DRIVERS)
            )
        ),
        {"test_devices_lead_to_them"},
    ),
    "published INF changed": (
        changed("/inf/oem0.inf", lambda data: data + b";"),
        {"test_published_copies_are_those_of_the_package"},
    ),
    "published catalogue gone": (without("/oem0.cat"), {"test_published_copies_are_those_of_the_package"}),
    "published catalogue changed": (
        changed("/oem0.cat", lambda data: data + b"\0"),
        {"test_published_copies_are_those_of_the_package"},
    ),
    "catalogue gone": (
        without("/viostor.cat"),
        {
            "test_packages_are_staged_whole",
            "test_published_copies_are_those_of_the_package",
            "test_the_catalogue_vouches_for_every_driver",
        },
    ),
    "staged driver changed": (
        changed("/netkvm.sys", lambda data: data[:-1] + b"!"),
        {"test_the_catalogue_vouches_for_every_driver"},
    ),
    "test mode off": (
        edited(SetValue(Hive.BCD, ELEMENT, "Element", binary(b"\0"), "")),
        {"test_test_mode_is_on_only_when_needed"},
    ),
    "root not trusted": (
        edited(DeleteKey(Hive.SOFTWARE, (*STORES, "ROOT", "Certificates"), "")),
        {"test_signers_windows_does_not_know_are_trusted"},
    ),
    "publisher not trusted": (
        edited(DeleteKey(Hive.SOFTWARE, (*STORES, "TrustedPublisher", "Certificates"), "")),
        {"test_signers_windows_does_not_know_are_trusted"},
    ),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_every_fault_is_noticed_by_the_check_that_names_it(run, built, name):
    sabotage, expected = SABOTAGE[name]
    sabotage(built)
    assert failed_tests(run(built)) == expected


def test_test_mode_without_need_is_noticed(run, tmp_path, drivers, monkeypatch, built):
    monkeypatch.setattr("builder.checks.driver.Driver.needs_test_mode", False)
    assert failed_tests(run(built)) == {"test_test_mode_is_on_only_when_needed"}


# ---------------------------------------------------------------- the plugin among others


def test_other_pytest_runs_import_nothing_of_ours(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded():
            assert not {"guestfs", "testinfra.backend", "builder.inspection", "lxml"} & set(sys.modules)
        """
    )
    done = pytester.runpytest_subprocess("-p", "builder.checks.plugin")
    done.assert_outcomes(passed=1)


def test_a_question_for_a_running_guest_is_a_skip_in_the_report(run, built, pytester):
    file = pytester.makepyfile("def test_uptime(host):\n    assert host.run('uptime').rc == 0")
    assert run(built, file=file)["skipped"] == ["test_uptime[phony.qcow2]"]
