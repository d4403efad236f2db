"""`winfoundry sign`, by a certificate authority made here; what it wrote is verified by osslsigncode."""

import datetime
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from builder.errors import ConfigError, InputRefused
from builder.host import process, signer
from builder.host.media import open_media
from builder.host.signer import Identity
from builder.model import Signer
from builder.sample import catalogue as throw_away
from builder.windows import certificates
from builder.windows.drivers import DRIVERS, select, verdict
from builder.windows.offers import everything
from builder.windows.releases import Arch, by_name
from builder.windows.signatures import Verdict

SECRET = "correct horse"


@pytest.fixture(scope="module")
def authority():
    if not shutil.which("osslsigncode"):
        pytest.skip("osslsigncode is not installed")
    return throw_away.new_signer(datetime.datetime.now(datetime.UTC))


@pytest.fixture
def identity(authority, tmp_path):
    chain = [one.public_bytes(Encoding.PEM) for one in (authority.certificate, authority.authority)]
    (tmp_path / "chain.pem").write_bytes(b"".join(chain))
    (tmp_path / "leaf.pem").write_bytes(chain[0])
    (tmp_path / "ca.pem").write_bytes(chain[1])
    files = {"key": NoEncryption(), "encrypted": BestAvailableEncryption(SECRET.encode())}
    for name, how in files.items():
        private(tmp_path / name, authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    private(tmp_path / "passphrase", f"{SECRET}\n".encode())
    return Identity(tmp_path / "chain.pem", tmp_path / "key")


def private(path, data):
    path.write_bytes(data)
    path.chmod(0o600)


@pytest.fixture
def folder(virtio_win, tmp_path):
    """Real packages of Microsoft's signing, two of which share a driver."""
    shutil.copytree(virtio_win / "viostor/w10/amd64", tmp_path / "drivers/viostor/w10/amd64")
    shutil.copytree(virtio_win / "pvpanic/w10/amd64", tmp_path / "drivers/pvpanic/w10/amd64")
    return tmp_path / "drivers"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_packages_are_signed_anew_by_the_team_s_own_certificate(folder, identity, authority):
    before = contents(folder)
    done = signer.sign(folder, identity)
    after = contents(folder)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] == before[name]} == {n for n in after if n.endswith((".inf", ".dll"))}
    assert [str(one.inf) for one in done] == [
        "pvpanic/w10/amd64/pvpanic-pci.inf",
        "pvpanic/w10/amd64/pvpanic.inf",
        "viostor/w10/amd64/viostor.inf",
    ]
    for one in done:
        assert (one.signature.signer, one.signature.by) == (Signer.TEST_SIGNED, "winfoundry sample signer")
        assert one.signature.root.der == authority.authority_der


def test_osslsigncode_verifies_driver_and_catalogue(folder, identity):
    signer.sign(folder, identity)
    here = folder / "viostor/w10/amd64"
    ca = ["-CAfile", identity.certificate.with_name("ca.pem")]
    for what in (["-in", here / "viostor.sys"], ["-catalog", here / "viostor.cat", "-in", here / "viostor.sys"]):
        done = subprocess.run(["osslsigncode", "verify", *ca, *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    (here / "viostor.sys").write_bytes((here / "viostor.sys").read_bytes().replace(b"DOS mode", b"DOS m0de"))
    argv = ["osslsigncode", "verify", *ca, "-in", here / "viostor.sys"]
    assert subprocess.run(argv, capture_output=True, check=False).returncode != 0


def test_a_build_trusts_exactly_who_signed(folder, identity, authority):
    signer.sign(folder, identity)
    wishes = {driver.name: "skip" for driver in DRIVERS} | {"viostor": "required"}
    with open_media(folder) as media:
        (package,) = select(media, by_name("w10"), Arch.AMD64, 19045, wishes).packages
    assert verdict(package, by_name("w10")) is Verdict.TEST_MODE
    stored = {(edit.key[2], edit.key[-1]) for edit in certificates.trust(package.signature)}
    root, leaf = package.signature.root, package.signature.leaf
    assert stored == {("ROOT", root.thumbprint), ("TrustedPublisher", leaf.thumbprint)}
    assert root.der == authority.authority_der


def test_an_encrypted_key_and_no_secret_on_a_command_line(folder, identity, monkeypatch):
    """T03: what is run is watched; the passphrase is in a file only."""
    commands, run = [], process.run

    def watched(argv, **how):
        commands.append((list(map(str, argv)), how.get("env")))
        return run(argv, **how)

    monkeypatch.setattr(signer, "run", watched)
    encrypted = identity.key.with_name("encrypted")
    with pytest.raises(ConfigError, match="is encrypted"):
        signer.sign(folder, Identity(identity.certificate, encrypted))
    assert commands == []
    signer.sign(folder, Identity(identity.certificate, encrypted, identity.key.with_name("passphrase")))
    assert len(commands) == 5  # two drivers, three catalogues
    keys = [identity.key.read_text(), encrypted.read_text()]
    for argv, env in commands:
        assert env is None
        words = " ".join(argv)
        assert SECRET not in words
        assert not [line for key in keys for line in key.splitlines() if line in words]


@pytest.mark.parametrize("name", ["key", "passphrase"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_t04_a_secret_others_can_read_is_refused(folder, identity, name, mode):
    secret = identity.key.with_name(name)
    secret.chmod(mode)
    with pytest.raises(ConfigError, match="others can read") as caught:
        signer.sign(folder, Identity(identity.certificate, identity.key, identity.key.with_name("passphrase")))
    assert (caught.value.exit_code, caught.value.fix) == (2, f"chmod 600 {secret}")


def test_t04_a_secret_behind_a_link_is_refused(folder, identity):
    link = identity.key.with_name("link")
    link.symlink_to(identity.key)
    with pytest.raises(ConfigError, match="is not a regular file"):
        signer.sign(folder, Identity(identity.certificate, link))


WRONG = {  # what is wrong -> (certificate, key, passphrase) by file name, what is said, why
    "no issuer": (("leaf.pem", "key", None), "would not be usable", "certificate of its issuer"),
    "another's key": (("ca.pem", "key", None), "osslsigncode cannot sign", "private key"),
    "no certificate": (("passphrase", "key", None), "osslsigncode cannot sign", "No certificate found"),
    "wrong passphrase": (("chain.pem", "encrypted", "key"), "osslsigncode cannot sign", "Wrong password"),
    "no such file": (("gone.pem", "key", None), "gone.pem is not a file", ""),
    "no such key": (("chain.pem", "gone", None), "cannot read", "No such file"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_named_and_nothing_is_changed(folder, identity, mistake):
    names, what, why = WRONG[mistake]
    certificate, key, passphrase = (name and identity.key.with_name(name) for name in names)
    before = contents(folder)
    with pytest.raises(ConfigError) as caught:
        signer.sign(folder, Identity(certificate, key, passphrase))
    assert what in caught.value.what
    assert why in caught.value.why
    assert ":error:" not in str(caught.value)
    assert contents(folder) == before


def test_an_incomplete_package_is_refused_whole(folder, identity):
    (folder / "viostor/w10/amd64/viostor.sys").unlink()
    before = contents(folder)
    with pytest.raises(InputRefused, match=r"viostor\.inf needs viostor\.sys"):
        signer.sign(folder, identity)
    assert contents(folder) == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"", "names no CatalogFile"), (rb"CatalogFile=..\x.cat", "CatalogFile is not a file name")],
)
def test_a_package_that_cannot_have_a_catalogue(folder, identity, text, said):
    inf = folder / "viostor/w10/amd64/viostor.inf"
    inf.write_bytes(inf.read_bytes().replace(b"CatalogFile=viostor.cat", text))
    with pytest.raises(InputRefused, match=said):
        signer.sign(folder, identity)


def test_a_package_without_a_catalogue_gets_one_and_modes_stay(folder, identity):
    here = folder / "viostor/w10/amd64"
    (here / "viostor.cat").unlink()
    (here / "viostor.sys").chmod(0o640)
    signer.sign(folder, identity)
    assert (here / "viostor.cat").is_file()
    assert stat.S_IMODE((here / "viostor.sys").stat().st_mode) == 0o640
    with open_media(here) as media:
        (offer,) = everything(media)
    assert (offer.windows, offer.verdict) == ("w11/amd64", Verdict.TEST_MODE)


def test_a_folder_without_drivers_is_refused(tmp_path, identity):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match="there is no driver in"):
        signer.sign(tmp_path / "empty", identity)
    with pytest.raises(ConfigError, match="is not a folder"):
        signer.sign(Path(tmp_path / "key"), identity)
