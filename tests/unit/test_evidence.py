from builder.host import evidence
from builder.host.evidence import Console, Screens, lines, readable


def test_escape_sequences_become_visible():
    assert readable(b"\x1b[2J\x07ok\r\n\x9b31m\x00\xff") == "\\x1b[2J\\x07ok\n\ufffd31m\\x00\ufffd"
    assert readable("\u0085\u202f\ufffe".encode()) == "\\x85\u202f\\xfffe"


def test_what_paints_the_screen_is_no_text():
    shown = lines(b"one\x1b[2J\x1b[01;01HStatus: \x1b[1;37;40m0xc00\x1b[0m00428\x1b[?25l\x1b]0;title\x07")
    assert shown == "one\n\nStatus: 0xc0000428\\x1b]0;title\\x07"


def test_no_log_reads_as_nothing(tmp_path):
    assert Console(tmp_path / "none").read() == ""


def test_the_console_grows_and_survives_a_new_file(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"first ")
    console = Console(log)
    assert console.read() == "first "
    with log.open("ab") as file:
        file.write(b"second ")
    assert console.read() == "first second "
    log.write_bytes(b"third")  # shorter: virtlogd rotated
    assert console.read() == "first second third"


def test_only_the_end_of_a_flood_is_kept(tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(1 << 32)  # sparse: four gigabytes of zeros
        file.seek(0, 2)
        file.write(b"*** STOP: 0x0000007B")
    text = Console(log).read()
    assert text.endswith("*** STOP: 0x0000007B")
    assert text.count("\\x00") == evidence.SERIAL_KEPT - 20


def test_only_changed_screens_are_kept_the_first_ones_and_the_last(tmp_path):
    screens = Screens(tmp_path)
    pictures = [b"", b"a", b"a", *(b"%d" % n for n in range(40)), b"39"]
    for seconds, picture in enumerate(pictures):
        screens.keep(picture, seconds)
    assert len(screens.kept) == evidence.SCREENS_KEPT
    assert sorted(tmp_path.iterdir()) == screens.kept
    assert [screens.kept[0].read_bytes(), screens.kept[-1].read_bytes()] == [b"a", b"39"]
    assert screens.kept[0].name == "screen-000010.png"  # tenths of a second
