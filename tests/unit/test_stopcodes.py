import pytest

from builder.windows import stopcodes


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("*** STOP: 0x0000007B (0xFFFFF880009A97E8,0xFFFFFFFFC0000034,0x0,0x0)", "stop-0x7b"),
        ("*** STOP: 0xC000021A", "stop-0xc000021a"),
        ("noise\n    Status: 0xc0000428\n    Info: Windows cannot verify the digital signature", "bootmgr-0xc0000428"),
        ("Status: 0xc000000e ... later *** STOP: 0x0000007B", "bootmgr-0xc000000e"),
        ("*** STOP: 0x0000007B then Status: 0xc000000e", "stop-0x7b"),
    ],
)
def test_the_first_code_is_found(text, verdict):
    assert stopcodes.find(text).verdict == verdict


@pytest.mark.parametrize(
    "text",
    ["", "STOP: 7B", "*** STOP: 0x", "*** STOP: 0x0000", "Status: 0x12", "Status: OK", "HTTPStatus: 0xc0000428x"],
)
def test_anything_else_is_no_code(text):
    assert stopcodes.find(text) is None


@pytest.mark.parametrize("code", [*stopcodes.STOP_CODES, 0xDEAD])
def test_every_stop_code_has_advice(code):
    assert len(stopcodes.stop(code).advice) > 20


@pytest.mark.parametrize("code", [*stopcodes.STATUS_CODES, 0xC0DEC0DE])
def test_every_status_has_advice(code):
    assert len(stopcodes.status(code).advice) > 20
    assert stopcodes.find(f"Status: 0x{code:08X}") == stopcodes.status(code)
