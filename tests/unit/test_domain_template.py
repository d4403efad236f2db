"""Users' templates: the same sandbox, the same checks; and X09: what looks like a template in a value is a text."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_render import ALL_OF_THEM, EVERYTHING, guest, spec

from builder import render
from builder.errors import ConfigError

OURS = '{% include "domain.xml.j2" %}'
PARTS = """<domain type="{{ 'kvm' if kvm else 'qemu' }}">
  <name>{{ name }}</name>
  {% if uuid %}<uuid>{{ uuid }}</uuid>{% endif %}
  <title>made from a template of mine</title>
{% include "memory.xml.j2" %}
{% include "firmware.xml.j2" %}
{% include "cpu.xml.j2" %}
  <devices>
{% include "disk.xml.j2" %}
{% include "network.xml.j2" %}
    DEVICE
  </devices>
</domain>
"""


@pytest.fixture
def made(tmp_path):
    """`made(text)`: the domain of a user's template with this text."""

    def make(text: str, provides=EVERYTHING, **wishes):
        own = tmp_path / "mine.xml.j2"
        own.write_text(text)
        return render.render(guest(), provides, spec(domain_template=own, **wishes))

    return make


def test_a_template_may_be_ours(made):
    assert made(OURS) == render.render(guest(), EVERYTHING, spec())


def test_a_template_may_be_made_of_our_parts(made):
    domain = made(PARTS.replace("DEVICE", '<watchdog model="i6300esb"/>'))
    assert "<title>made from a template of mine</title>" in domain.template
    assert "/srv/templates/windows/image.qcow2" in domain.template
    assert "/srv/templates/windows/image.qcow2" not in domain.booted


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ('<vsock model="virtio"/>', "vsock model virtio needs viosock"),
        ('<video><model type="qxl"/></video>', "video model qxl needs qxldod or qxl"),
        (
            '<disk type="file"><source file="/srv/mine"/><target dev="vdb" bus="virtio"/></disk>',
            "must not write to yours",
        ),
        ('<sausage kind="x"/>', "the element sausage is not as it allows"),
        ("{{ no_such_thing }}", "template line 11: 'no_such_thing' is undefined"),
        ("{% if %}", "line 11: Expected an expression"),
        ("{{ disk|safe }}", "No filter named 'safe'"),
        ("{{ disk|tojson }}", "No filter named 'tojson'"),
        ("{% autoescape false %}{{ disk }}{% endautoescape %}", "it changes autoescape"),
        ('{% include "/etc/passwd" %}', "there is no template '/etc/passwd' to include"),
        ('{% include "../../../etc/passwd" %}', "there is no template '../../../etc/passwd' to include"),
        ("{{ name.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ cpus // 0 }}", "division"),
        ("{{ range(10 ** 9)|list }}", "Range too big"),
        ("<oops>", "mismatched tag"),
        ("<x a=1/>", "not well-formed"),
    ],
)
def test_what_a_template_may_not(made, device, why):
    with pytest.raises(ConfigError) as caught:
        made(PARTS.replace("DEVICE", device))
    assert why in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_template_with_a_doctype_is_refused_unread(made):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + PARTS.replace("DEVICE", "&b;")
    with pytest.raises(ConfigError, match="has a DOCTYPE"):
        made(bomb)


def test_a_template_must_use_the_trials_name(made):
    with pytest.raises(ConfigError, match=r"must use {{ name }}"):
        made(PARTS.replace("{{ name }}", "mine").replace("DEVICE", ""))


def test_a_template_must_use_the_trials_disk(made):
    with pytest.raises(ConfigError, match=r"must be {{ disk }}"):
        made(PARTS.replace('{% include "disk.xml.j2" %}', "").replace("DEVICE", ""))


@pytest.mark.parametrize("text", ["\udcff", None])
def test_a_file_that_cannot_be_read(tmp_path, text):
    own = tmp_path / "mine.xml.j2"
    if text:
        own.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"mine\.xml\.j2 cannot be rendered"):
        render.render(guest(), EVERYTHING, spec(domain_template=own))


def test_a_device_is_no_template(tmp_path):
    with pytest.raises(ConfigError, match="not a file"):
        render.fill({}, Path("/dev/zero"))


@pytest.mark.parametrize("value", ["{{ 7*7 }}", "{{ x.__class__ }}", "{% include 'domain.xml.j2' %}", "{# #}"])
def test_values_are_never_templates(made, value):
    image = Path(f"/srv/{value}/image.qcow2")
    for xml in (made(OURS, image=image).template, render.render(guest(), ALL_OF_THEM, spec(image=image)).template):
        assert value.replace("'", "&#39;") in xml


def test_hostile_values_stay_values_in_a_users_template(made):
    image = Path("/srv/'\"><qemu:commandline/>&amp;/image.qcow2")
    assert "<qemu" not in made(PARTS.replace("DEVICE", ""), image=image).template
    assert replace(spec(), image=image).image == image
