import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import hcl

FILE = Path("p.pkr.hcl")
SCOPE = {"var": {"s": "text", "n": 4, "l": ["a", "b"], "m": {"k": True}}, "local": {}, "path": {"root": "."}}


def value(text):
    return hcl.parse(f"a = {text}\n", FILE).attributes["a"].value(SCOPE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"x"', "x"),
        (r'"q\"t\tn\nb\\u\u00e9"', 'q"t\tn\nb\\ué'),
        ("7", 7),
        ("-7", -7),
        ("1.5", 1.5),
        ("1e3", 1000),
        ("true", True),
        ("null", None),
        ('["a", 1, [false],]', ["a", 1, [False]]),
        ('{ a = 1, "b" : 2\n c = 3, in = 4, (var.s) = 5 }', {"a": 1, "b": 2, "c": 3, "in": 4, "text": 5}),
        ("var.s", "text"),
        ('"${var.n}"', 4),
        ('"x${var.n}-${var.m.k}-${"in${1.5}"}"', "x4-true-in1.5"),
        ('"$${var.n}%%{if}"', "${var.n}%{if}"),
        ("(var.n)", 4),
        ("var.l[1]", "b"),
        ('var.m["k"]', True),
        ("path.root", "."),
        ('upper(lower("aB"))', "AB"),
        ('join("-", ["a", 1], [true])', "a-1-true"),
        ('concat(["a"], var.l)', ["a", "a", "b"]),
        ('"${dirname("a/b.iso")}/${basename("a/b.iso")}${trimspace(" c ")}"', "a/b.isoc"),
    ],
)
def test_values_are_what_packer_makes_of_them(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('env("X")', "the function env() is not read here: run this file with packer"),
        ('var.n > 1 ? "a" : "b"', "a condition (? :) is not read here: run this file with packer"),
        ("1 + 2", "an operator between two values is not read here: run this file with packer"),
        ("!true", "the operator ! is not read here: run this file with packer"),
        ("[for x in var.l : x]", "a for expression is not read here: run this file with packer"),
        ("var.l[*]", "a splat ([*]) is not read here: run this file with packer"),
        ('"%{ if true }x%{ endif }"', "a template directive (%{ if }) is not read here: run this file with packer"),
        ("<<E\ntext\nE", "a heredoc (<<) is not read here: run this file with packer"),
        ("data.http.x", "data.http is not read here: run this file with packer"),
        ("var.none", "var.none has no value: it is not declared, or defined by itself"),
        ("var.l[2]", "there is no element 2"),
        ("word", "word means nothing here; text is written in quotes"),
        ('"${var.l}!"', "only text, numbers and true/false can stand in a text"),
        ("{ a = 1, a = 2 }", "a is given twice"),
        (r'"\q"', "there is no escape \\q"),
        (r'"\ud800"', "there is no escape \\ud800"),
        ('"two\nlines"', "text in quotes ends on its line; write \\n for a new one"),
        ("1e999", "this number is too large"),
        ("9" * 5000, "this number is too large"),
        ("upper(1)", "upper() was called with arguments it does not take"),
        ('upper(["a"]...)', "the function upper() is not read here: run this file with packer"),
        ("[" * 3000 + "]" * 3000, "is nested too deeply"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(text, sentence):
    with pytest.raises(hcl.Refused) as caught:
        value(text)
    assert caught.value.what == f"p.pkr.hcl:1: {sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = 1\nb = @\n", "p.pkr.hcl:2: column 5: is not HCL: did not expect '@'"),
        ("a = ", "p.pkr.hcl:1: column 5: is not HCL: something is missing here"),
        ("b {\n", "p.pkr.hcl:2: column 1: is not HCL: something is missing here"),
        ("a = 1\na = 2\n", "p.pkr.hcl:2: a is given twice"),
        ("b {\n" * 3000 + "}\n" * 3000, "p.pkr.hcl: is nested too deeply"),
    ],
)
def test_bad_syntax_is_reported_with_line_and_column(text, sentence):
    with pytest.raises(hcl.Refused) as caught:
        hcl.parse(text, FILE)
    assert caught.value.what == sentence


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\xef\xbb\xbfa = 1\n", ": starts with a byte order mark; save it as UTF-8 without one"),
        (b'a = 1\nb = "\xff"\n', ":2: is not UTF-8: byte 0xff"),
        (b"#" * (10 << 20), ": has more than 1048576 bytes"),
    ],
)
def test_files_that_are_not_plain_utf8_are_refused(tmp_path, data, sentence):
    file = tmp_path / "x.pkr.hcl"
    file.write_bytes(data)
    with pytest.raises(hcl.Refused) as caught:
        hcl.read(file)
    assert caught.value.what == f"{file}{sentence}"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(hcl.Refused, match="cannot be read: No such file"):
        hcl.read(tmp_path / "x.pkr.hcl")


def test_blocks_keep_labels_lines_and_nesting():
    whole = hcl.parse('# c\nsource "winfoundry" "a" {\r\n  x = 1 // c\n  in {\n y = [\n 2 ] }\n}\n', FILE)
    (source,) = whole.blocks
    assert (source.type, source.labels, source.place.line) == ("source", ("winfoundry", "a"), 2)
    assert source.attributes["x"].place.line == 3
    assert source.blocks[0].attributes["y"].value({}) == [2]


def test_a_type_is_given_back_as_written():
    assert hcl.parse("type = map( list(string) )\n", FILE).attributes["type"].source() == "map(list(string))"


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from('ab1"${}[]()=,.:\n\\<%#/*-é '), max_size=60))
def test_any_text_is_read_or_refused(text):
    with suppress(hcl.Refused):
        for one in hcl.parse(text, FILE).attributes.values():
            assert json.dumps(one.value(SCOPE), allow_nan=False)
