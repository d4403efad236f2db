import hashlib
import struct

import pytest

from builder.model import Certificate, Hive, Signature, Signer
from builder.windows import certificates


@pytest.fixture(scope="module")
def red_hat(virtio_win):
    return Certificate((virtio_win / "cert" / "Virtio_Win_Red_Hat_CA.cer").read_bytes(), "Red Hat Inc.")


def test_a_blob_holds_the_thumbprint_and_then_the_certificate(red_hat):
    blob = certificates.blob(red_hat.der)
    assert blob[:12] == struct.pack("<III", 3, 1, 20)
    assert blob[12:32] == hashlib.sha1(red_hat.der).digest()
    assert blob[32:44] == struct.pack("<III", 32, 1, len(red_hat.der))
    assert blob[44:] == red_hat.der


def test_a_self_signed_signer_is_trusted_as_root_and_as_publisher(red_hat):
    edits = certificates.trust(Signature(Signer.TEST_SIGNED, "Red Hat Inc.", red_hat, red_hat, ""))
    stores = ("Microsoft", "SystemCertificates")
    thumbprint = "5C485F20BEF4A9DD77258A2F06D9386F18FB0696"
    assert [(edit.hive, edit.key, edit.name) for edit in edits] == [
        (Hive.SOFTWARE, (*stores, "ROOT", "Certificates", thumbprint), "Blob"),
        (Hive.SOFTWARE, (*stores, "TrustedPublisher", "Certificates", thumbprint), "Blob"),
    ]
    assert {edit.value.data for edit in edits} == {certificates.blob(red_hat.der)}


@pytest.mark.parametrize("signer", [one for one in Signer if one is not Signer.TEST_SIGNED])
def test_nobody_else_is_trusted(signer, red_hat):
    assert certificates.trust(Signature(signer, "", red_hat, red_hat, "")) == ()
