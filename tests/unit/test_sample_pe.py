"""The sample's PE files, read by pefile."""

import pefile
import pytest

from builder.sample import pe


@pytest.mark.parametrize("subsystem", pe.Subsystem)
def test_image_is_a_sound_amd64_program(subsystem):
    image = pefile.PE(data=pe.image("viostor.sys", subsystem))
    assert image.FILE_HEADER.Machine == pefile.MACHINE_TYPE["IMAGE_FILE_MACHINE_AMD64"]
    assert image.OPTIONAL_HEADER.Subsystem == subsystem
    assert image.verify_checksum()
    section = image.get_section_by_rva(image.OPTIONAL_HEADER.AddressOfEntryPoint)
    assert section is not None
    assert section.get_data()[:6] == bytes.fromhex("b8020000c0c3")


def test_image_says_what_it_is():
    assert b"winfoundry sample: stands for viostor.sys" in pe.image("viostor.sys")
