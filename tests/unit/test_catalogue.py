"""Catalogues as they are written; what reads them is signify's definitions, and osslsigncode in test_signer."""

import datetime
import hashlib

import pytest
from asn1crypto import cms, core
from hypothesis import given
from hypothesis import strategies as st
from signify.asn1 import ctl

from builder.sample import pe
from builder.windows import authenticode, catalogue, der, signatures
from builder.windows.authenticode import Unsound

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)


def test_programs_are_listed_by_their_image_and_others_by_their_bytes():
    program = pe.image("x")
    written = catalogue.unsigned({"a.dll": program, "a.inf": b"[Version]"}, NOW)
    content = cms.ContentInfo.load(written, strict=True)["content"]["encap_content_info"]["content"]
    assert isinstance(content, ctl.CertificateTrustList)
    assert content["ctl_this_update"].native == NOW.replace(microsecond=0)
    listed = {bytes(one["subject_identifier"].native) for one in content["trusted_subjects"]}
    assert listed == {authenticode.image(program).digest("sha256"), hashlib.sha256(b"[Version]").digest()}


def test_nobody_vouches_for_it_before_it_is_signed():
    with pytest.raises(Unsound, match="nobody signed it"):
        signatures.catalog("a.cat", catalogue.unsigned({"a.inf": b""}, NOW))


def test_what_pretends_to_be_a_program_is_refused():
    with pytest.raises(Unsound, match="not a Windows program"):
        catalogue.unsigned({"a.sys": b"MZ" * 100}, NOW)


@given(st.binary(max_size=70_000) | st.integers(0, 70_000).map(bytes))
def test_lengths_are_written_as_der_wants_them(content):
    assert core.OctetString.load(der.octets(content), strict=True).native == content
    assert der.octets(content) == core.OctetString(content).dump()
