"""How checks are run and reported; what they look at is in test_checks.py, that they work on a disk in integration."""

import pytest

from builder import verify as verifying
from builder.errors import ChecksFailed, ConfigError
from builder.verify import verify

CHECKS = """
import pytest

def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
def test_odd(): pytest.skip("needs a running guest")

@pytest.fixture
def broken(): raise OSError("no such <thing>")

def test_broken(broken): pass
"""


@pytest.fixture
def checks(tmp_path):
    def write(text, name="my_checks.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_each_outcome_is_reported_by_name(checks, tmp_path):
    report = verify(tmp_path / "no.qcow2", [checks(CHECKS)], evidence=tmp_path / "evidence")
    assert report.passed == 1
    assert report.failed == ("my_checks::test_bad", "my_checks::test_broken")
    assert report.skipped == (("my_checks::test_odd", "needs a running guest"),)
    assert report.junit == tmp_path / "evidence" / "checks.xml"
    assert not report.ok


def test_all_passed(checks, tmp_path):
    report = verify(tmp_path / "no.qcow2", [checks("def test_good(): pass")], evidence=tmp_path)
    assert report.ok


def test_nothing_but_skips_proves_nothing(checks, tmp_path):
    text = "import pytest\ndef test_odd(): pytest.skip('not here')"
    assert not verify(tmp_path / "no.qcow2", [checks(text)], evidence=tmp_path).ok


@pytest.mark.parametrize("text", ["", "def helper(): pass"])
def test_no_checks_is_a_failure(checks, tmp_path, text):
    with pytest.raises(ChecksFailed, match="no checks ran"):
        verify(tmp_path / "no.qcow2", [checks(text)], evidence=tmp_path)


def test_an_empty_list_is_no_checks(tmp_path):
    with pytest.raises(ChecksFailed, match="no checks ran"):
        verify(tmp_path / "no.qcow2", [], evidence=tmp_path)


def test_a_file_that_cannot_be_imported_fails(checks, tmp_path):
    report = verify(tmp_path / "no.qcow2", [checks("import nothing_of_that_name")], evidence=tmp_path)
    assert not report.ok
    assert len(report.failed) == 1


def test_an_unknown_check_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="virtio_ready"):
        verify(tmp_path / "no.qcow2", ["virtio_redy"], evidence=tmp_path)


def test_a_packaged_check_is_found_by_name():
    assert verifying._file("virtio_ready").name == "virtio_ready.py"


def test_the_users_own_pytest_settings_do_not_count(checks, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "random.py").write_text("raise ImportError('the module of the current folder was taken')")
    monkeypatch.chdir(tmp_path)
    assert verify(tmp_path / "no.qcow2", [checks("def test_good(): pass")], evidence=tmp_path).ok


def test_the_manifest_reaches_the_checks(checks, tmp_path):
    manifest = tmp_path / "plan.json"
    text = "def test_given(request):\n    assert request.config.getoption('--winfoundry-manifest').name == 'plan.json'"
    assert verify(tmp_path / "no.qcow2", [checks(text)], evidence=tmp_path, manifest=manifest).ok


def test_a_manifest_that_is_none_is_an_error_in_every_check(checks, tmp_path):
    manifest = tmp_path / "plan.json"
    manifest.write_text("[]")
    text = "def test_given(winfoundry_manifest): pass"
    report = verify(tmp_path / "no.qcow2", [checks(text)], evidence=tmp_path, manifest=manifest)
    assert len(report.failed) == 1
    assert "is not a manifest of winfoundry" in report.junit.read_text()


def test_an_entity_in_the_report_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    junit = tmp_path / "checks.xml"
    junit.write_text(
        f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]><testsuites><testsuite>'
        '<testcase classname="m" name="t"><failure message="bad">&e;</failure></testcase></testsuite></testsuites>'
    )
    report = verifying._report(junit)
    assert report.failed == ("m::t",)
