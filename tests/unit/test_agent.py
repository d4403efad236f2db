import base64
import json

import pytest

from builder.host import agent as module
from builder.host.agent import Agent, AgentError, Device, OsInfo


def answering(**replies):
    """An agent that gives these replies (or, of a list, one each time), and notes what it was asked."""
    asked = []

    def ask(command, timeout):
        request = json.loads(command)
        asked.append(request)
        reply = replies[request["execute"].replace("-", "_")]
        return json.dumps({"return": reply.pop(0) if isinstance(reply, list) and isinstance(reply[0], dict) else reply})

    fake = Agent(ask)
    fake.asked = asked
    return fake


def saying(text):
    return Agent(lambda _command, _timeout: text)


def recorded(testdata, name):
    return [
        json.loads(line)["reply"] for line in (testdata / "text" / "qga" / f"{name}.jsonl").read_text().splitlines()
    ]


def test_real_replies_to_osinfo(testdata):
    for reply in recorded(testdata, "guest-get-osinfo"):
        said = saying(json.dumps(reply)).osinfo()
        assert (said.id, said.name) == (reply["return"]["id"], reply["return"]["pretty-name"])


def test_real_replies_to_devices(testdata):
    (reply,) = recorded(testdata, "guest-get-devices")
    assert saying(json.dumps(reply)).devices() == (
        Device("Red Hat VirtIO SCSI controller", "100.85.104.20800", 0x1AF4, 0x1042),
    )


def test_a_guest_cannot_reach_the_terminal_through_its_name():
    said = answering(guest_get_osinfo={"id": "x\x1b[2J", "pretty-name": "a\nb" + "c" * 1000}).osinfo()
    assert said == OsInfo("x\\x1b[2J", "a b" + "c" * 197, "", "")


def test_interfaces():
    reply = [
        {"name": "eth0", "hardware-address": "52:54:00:12:34:56", "ip-addresses": [{"ip-address": "10.0.2.15"}]},
        {"name": "lo"},
    ]
    found = saying(json.dumps({"return": reply})).interfaces()
    assert [(one.name, one.mac, one.addresses) for one in found] == [
        ("eth0", "52:54:00:12:34:56", ("10.0.2.15",)),
        ("lo", "", ()),
    ]


def test_run_waits_for_the_end_and_decodes_both_outputs(monkeypatch):
    monkeypatch.setattr(module, "_POLL", 0)
    out = base64.b64encode(b"\x00\xff").decode()
    done = {
        "exited": True,
        "exitcode": 3,
        "out-data": out,
        "err-data": base64.b64encode(b"e").decode(),
        "out-truncated": True,
    }
    agent = answering(guest_exec={"pid": 7}, guest_exec_status=[{"exited": False}, done])
    ran = agent.run(["cmd.exe", "/c", "x y"], stdin=b"in")
    assert (ran.code, ran.stdout, ran.stderr, ran.truncated) == (3, b"\x00\xff", b"e", True)
    assert agent.asked[0]["arguments"] == {
        "path": "cmd.exe",
        "arg": ["/c", "x y"],
        "capture-output": True,
        "input-data": base64.b64encode(b"in").decode(),
    }
    assert agent.asked[1]["arguments"] == {"pid": 7}


def test_a_signal_is_a_negative_code():
    agent = answering(guest_exec={"pid": 7}, guest_exec_status={"exited": True, "signal": 9})
    assert agent.run(["x"]).code == -9


def test_a_program_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "_POLL", 0)
    with pytest.raises(AgentError, match="did not end within 0 seconds"):
        answering(guest_exec={"pid": 7}, guest_exec_status={"exited": False}).run(["x"], timeout=0)


CALLS = [Agent.ping, Agent.osinfo, Agent.devices, Agent.interfaces, lambda agent: agent.run(["x"])]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"x"', '{"error": {"desc": "\x1b"}}', "[" * 100_000])
def test_what_is_no_reply_is_an_error_of_ours(call, text):
    with pytest.raises(AgentError):
        call(saying(text))


@pytest.mark.parametrize("call", CALLS[1:])
@pytest.mark.parametrize("value", ["null", "7", '"x"', "[[]]", '[{"id": {"vendor-id": "x"}, "ip-addresses": 3}]'])
def test_a_reply_of_another_shape_is_an_error_of_ours(call, value):
    with pytest.raises(AgentError):
        call(saying(f'{{"return": {value}}}'))


def test_output_that_is_not_base64_is_an_error_of_ours():
    with pytest.raises(AgentError, match="base64"):
        answering(guest_exec={"pid": 7}, guest_exec_status={"exited": True, "exitcode": 0, "out-data": "*"}).run(["x"])
