"""The sample's catalogues, verified by osslsigncode and read with signify's definitions: neither wrote them."""

import datetime
import hashlib
import subprocess

import pytest
from asn1crypto import cms
from cryptography.hazmat.primitives import serialization
from signify.asn1 import ctl

from builder.sample import catalogue, pe
from builder.windows import authenticode

NOW = datetime.datetime.now(datetime.UTC)
FILES = {"viostor.sys": pe.image("viostor.sys"), "viostor.inf": b"[Version]\r\n"}


@pytest.fixture(scope="module")
def signer():
    return catalogue.new_signer(NOW)


@pytest.fixture
def verify(tmp_path):
    def run(driver: bytes, catalog: bytes, signer: catalogue.Signer) -> int:
        (tmp_path / "x.sys").write_bytes(driver)
        (tmp_path / "x.cat").write_bytes(catalog)
        (tmp_path / "ca.pem").write_bytes(signer.authority.public_bytes(serialization.Encoding.PEM))
        argv = ["osslsigncode", "verify", "-catalog", "x.cat", "-in", "x.sys", "-CAfile", "ca.pem"]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False).returncode

    return run


def test_osslsigncode_accepts_the_driver(signer, verify):
    assert verify(FILES["viostor.sys"], catalogue.catalogue(FILES, signer, NOW), signer) == 0


def test_osslsigncode_refuses_another_driver(signer, verify):
    assert verify(pe.image("other.sys"), catalogue.catalogue(FILES, signer, NOW), signer) != 0


def test_osslsigncode_refuses_another_authority(signer, verify):
    assert verify(FILES["viostor.sys"], catalogue.catalogue(FILES, signer, NOW), catalogue.new_signer(NOW)) != 0


def members(catalog: bytes):
    """Of each member: its hash, and the attributes by name."""
    trust_list = cms.ContentInfo.load(catalog)["content"]["encap_content_info"]["content"]
    assert isinstance(trust_list, ctl.CertificateTrustList)
    assert trust_list["subject_usage"].native == ["microsoft_catalog_list"]
    for subject in trust_list["trusted_subjects"]:
        names = [attribute["type"].native for attribute in subject["subject_attributes"]]
        yield subject["subject_identifier"].native, names


def test_catalogue_lists_the_flat_hash_of_the_inf_and_the_image_hash_of_the_driver(signer):
    listed = {digest for digest, _ in members(catalogue.catalogue(FILES, signer, NOW))}
    flat = hashlib.sha256(FILES["viostor.inf"]).digest()
    assert listed == {flat, authenticode.image(FILES["viostor.sys"]).digest("sha256")}


def test_members_have_the_attributes_of_real_ones(signer, virtio_win):
    real = dict(members((virtio_win / "viostor/w10/amd64/viostor.cat").read_bytes()))
    wanted = {tuple(sorted(names)) for digest, names in real.items() if len(digest) == 32}
    ours = {tuple(sorted(names)) for _, names in members(catalogue.catalogue(FILES, signer, NOW))}
    assert ours == wanted


def test_certificates_say_plainly_whose_they_are(signer):
    assert signer.authority.subject.rfc4514_string() == "CN=winfoundry sample CA"
    assert signer.certificate.subject.rfc4514_string() == "CN=winfoundry sample signer"
