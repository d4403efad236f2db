import csv
import datetime
import json
from collections import Counter

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.model import Signature, Signer
from builder.sample import catalogue as sample
from builder.windows import authenticode, signatures
from builder.windows.authenticode import Unsound
from builder.windows.releases import RELEASES, Arch, by_name
from builder.windows.signatures import Verdict

CLASSES = {"MS-WHQL": Signer.MICROSOFT, "SELF": Signer.TEST_SIGNED, "Red Hat, Inc": Signer.CROSS_SIGNED}
NO_CROSS_CERTIFICATE = {"qxl/xp/x86/qxl.cat", "qxl/xp/x86/qxl.sys"}


@pytest.fixture(scope="module")
def w10(virtio_win):
    folder = virtio_win / "viostor" / "w10" / "amd64"
    return {name: (folder / f"viostor.{name}").read_bytes() for name in ("inf", "cat", "sys")}


@pytest.fixture(scope="module")
def catalogs(virtio_win):
    """Folder -> its catalogues."""
    found = {}
    for path in sorted(virtio_win.rglob("*.cat")):
        found.setdefault(path.parent, []).append(signatures.catalog(path.name, path.read_bytes()))
    return found


@pytest.fixture(scope="module")
def images(virtio_win):
    return {path: authenticode.image(path.read_bytes()) for path in sorted(virtio_win.rglob("*.sys"))}


def test_every_inf_and_driver_is_in_a_catalogue_of_its_folder(virtio_win, catalogs, images, measured):
    listed = [
        any(one.lists(path.read_bytes()) for one in catalogs[path.parent]) for path in virtio_win.rglob("*.inf")
    ] + [any(one.lists_image(image) for one in catalogs[path.parent]) for path, image in images.items()]
    assert Counter(listed) == {True: 563}
    measured(f"INF and .sys files found in a catalogue of their folder: {listed.count(True)} of {len(listed)}")


def test_signer_classes_agree_with_an_independent_reading(virtio_win, testdata, images, measured):
    """SIGNATURES.tsv was made from the PKCS#7 by other code: name, kind, who signed it."""
    expected, found = {}, {}
    with (testdata / "drivers" / "virtio-win-0.1.240.SIGNATURES.tsv").open() as file:
        for name, kind, who, rows in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if kind == "cat" or kind.startswith("sys:"):
                signer = json.loads(rows)[0]["signer"]
                expected[name] = next(value for start, value in CLASSES.items() if who.startswith(start)), signer
    for name in expected:
        path = virtio_win / name
        blob = images[path].signatures[0] if path in images else path.read_bytes()
        signed = authenticode.verify(blob)
        found[name] = signatures._class(signed).signer, signed.by
    differing = {name for name in expected if expected[name] != found[name]}
    assert len(expected) == 563
    assert {found[name][0] for name in differing} <= {Signer.TEST_SIGNED}
    assert differing <= NO_CROSS_CERTIFICATE
    measured(f"signers that agree with SIGNATURES.tsv: {len(expected) - len(differing)} of {len(expected)}")


def test_authenticode_hashes_are_those_in_the_files_own_signatures(images):
    signed = {
        path: authenticode.verify(image.signatures[0]).content for path, image in images.items() if image.signatures
    }
    assert len(signed) == len(images)
    for path, content in signed.items():
        digest = content["message_digest"]
        algorithm = digest["digest_algorithm"]["algorithm"].native
        assert images[path].digest(algorithm) == digest["digest"].native


def examine(inf, cat, sys, extra=()):
    return signatures.examine(("v.inf", inf), cat and ("v.cat", cat), {"v.sys": authenticode.image(sys)}, extra)


def test_an_untouched_package_is_microsoft_s(w10):
    found = examine(w10["inf"], w10["cat"], w10["sys"])
    assert (found.signer, found.by) == (Signer.MICROSOFT, "Microsoft Windows Hardware Compatibility Publisher")


def test_the_windows_8_1_packages_are_test_signed_by_the_certificate_on_the_disc(virtio_win):
    folder = virtio_win / "viostor" / "w8.1" / "amd64"
    found = examine(*((folder / f"viostor.{name}").read_bytes() for name in ("inf", "cat", "sys")))
    assert found.signer is Signer.TEST_SIGNED
    assert found.leaf == found.root
    assert found.leaf.thumbprint == "5C485F20BEF4A9DD77258A2F06D9386F18FB0696"
    assert found.leaf.der == (virtio_win / "cert" / "Virtio_Win_Red_Hat_CA.cer").read_bytes()


def test_changed_line_ends_are_named(w10):
    found = examine(w10["inf"].replace(b"\r\n", b"\n"), w10["cat"], w10["sys"])
    assert found.signer is Signer.BROKEN
    assert found.why == "v.cat lists v.inf with CRLF line ends only: line ends changed?"


def test_a_changed_inf_is_named(w10):
    found = examine(w10["inf"] + b";", w10["cat"], w10["sys"])
    assert (found.signer, found.why.split(" as ")[0]) == (Signer.BROKEN, "v.cat does not list v.inf")


def test_a_changed_driver_is_named(w10):
    changed = w10["sys"][:2000] + bytes([w10["sys"][2000] ^ 1]) + w10["sys"][2001:]
    found = examine(w10["inf"], w10["cat"], changed)
    assert (found.signer, found.why) == (Signer.BROKEN, "v.sys has been changed since it was signed")


def test_a_catalogue_with_a_changed_list_is_broken(w10):
    at = w10["cat"].index(b"v\0i\0o\0s\0t\0o\0r\0")
    changed = w10["cat"][:at] + b"w" + w10["cat"][at + 1 :]
    found = examine(w10["inf"], changed, w10["sys"])
    assert (found.signer, found.why) == (Signer.BROKEN, "v.cat: what was signed has been changed since")


def test_without_a_catalogue_a_package_is_unsigned(w10):
    assert examine(w10["inf"], None, w10["sys"]).signer is Signer.UNSIGNED


def test_a_program_is_no_catalogue_and_text_is_no_program(w10):
    assert examine(w10["inf"], authenticode.image(w10["sys"]).signatures[0], w10["sys"]).signer is Signer.BROKEN
    with pytest.raises(Unsound, match="not a Windows program"):
        authenticode.image(w10["inf"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), bytes_=st.binary(min_size=1, max_size=4), kind=st.sampled_from(["cat", "sys"]))
def test_damaged_signatures_and_programs_are_judged_never_a_crash(w10, at, bytes_, kind):
    data = w10[kind]
    start = int(at * (len(data) - 1))
    files = w10 | {kind: data[:start] + bytes_ + data[start + len(bytes_) :]}
    try:
        found = examine(files["inf"], files["cat"], files["sys"])
    except Unsound:
        return
    assert found.signer in Signer
    assert found.why


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: b"MZ" + data))
def test_random_bytes_are_neither_signature_nor_program(data):
    with pytest.raises(Unsound):
        signatures.catalog("x.cat", data)
    with pytest.raises(Unsound):
        authenticode.image(data)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("release", "arch", "signer", "expected"),
    [
        ("w10", "amd64", "microsoft", Verdict.LOADS),
        ("w11", "ARM64", "test-signed", Verdict.TEST_MODE),
        ("w11", "amd64", "cross-signed", Verdict.TEST_MODE),
        ("2k22", "amd64", "unsigned", Verdict.REFUSED),
        ("w8.1", "amd64", "test-signed", Verdict.TEST_MODE),
        ("w7", "amd64", "cross-signed", Verdict.LOADS),
        ("w7", "amd64", "unsigned", Verdict.REFUSED),
        ("w7", "x86", "test-signed", Verdict.LOADS),
        ("w10", "x86", "unsigned", Verdict.LOADS),
        ("2k3", "amd64", "unsigned", Verdict.LOADS),
        ("w10", "x86", "broken", Verdict.REFUSED),
    ],
)
def test_verdicts(release, arch, signer, expected):
    signature = Signature(Signer(signer), "", None, None, "")
    assert signatures.verdict(signature, by_name(release), Arch(arch), kernel_code=True) is expected


def test_every_release_has_a_verdict_for_every_signer():
    for release in RELEASES:
        for arch in Arch:
            for signer in Signer:
                signature = Signature(signer, "", None, None, "")
                assert signatures.verdict(signature, release, arch, kernel_code=True) in Verdict


# ---------------------------------------------------------------- certificates of our own making

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
MICROSOFT = "Microsoft Root Certificate Authority 2010"


def issue(subject, issuer, key, signing_key, *, may_issue):
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (subject, issuer)]
    builder = x509.CertificateBuilder(*reversed(names)).public_key(key.public_key()).serial_number(len(subject))
    dated = builder.not_valid_before(NOW).not_valid_after(NOW + datetime.timedelta(days=1))
    constraints = x509.BasicConstraints(ca=may_issue, path_length=None)
    return dated.add_extension(constraints, critical=True).sign(signing_key, hashes.SHA256())


@pytest.fixture(scope="module")
def keys():
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]


def judged(authority, leaf, key, extra=()):
    """A package of one INF under a catalogue that carries `authority` and `leaf`."""
    files = {"v.inf": b"[Version]\r\n"}
    data = sample.catalogue(files, sample.Signer(authority, leaf, key), NOW)
    return signatures.examine(("v.inf", files["v.inf"]), ("v.cat", data), {}, extra)


def test_an_authority_that_calls_itself_microsoft_is_a_test_signer(keys):
    root = issue(MICROSOFT, MICROSOFT, keys[0], keys[0], may_issue=True)
    found = judged(root, issue("WHQL", MICROSOFT, keys[1], keys[0], may_issue=False), keys[1])
    assert (found.signer, found.by, found.root.subject) == (Signer.TEST_SIGNED, "WHQL", MICROSOFT)


def test_a_certificate_that_may_not_issue_ends_the_chain(keys):
    middle = issue("nobody", MICROSOFT, keys[0], keys[0], may_issue=False)
    found = judged(middle, issue("signer", "nobody", keys[1], keys[0], may_issue=False), keys[1])
    assert found.signer is Signer.BROKEN
    assert "the certificate of its issuer is not on the disc" in found.why


def test_the_certificate_of_the_authority_may_lie_on_the_disc(keys):
    root = issue("a CA", "a CA", keys[0], keys[0], may_issue=True)
    leaf = issue("signer", "a CA", keys[1], keys[0], may_issue=False)
    assert judged(leaf, leaf, keys[1]).signer is Signer.BROKEN
    der = root.public_bytes(serialization.Encoding.DER)
    found = judged(leaf, leaf, keys[1], extra=[der])
    assert (found.signer, found.root.der) == (Signer.TEST_SIGNED, der)


def test_a_signature_by_another_key_does_not_verify(keys):
    root = issue("a CA", "a CA", keys[0], keys[0], may_issue=True)
    leaf = issue("signer", "a CA", keys[1], keys[0], may_issue=False)
    found = judged(root, leaf, keys[0])
    assert (found.signer, found.why) == (Signer.BROKEN, "v.cat: the signature of 'signer' does not verify")
