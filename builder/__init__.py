"""winfoundry: turns a Windows disk image into a golden, virtio-ready template, and proves it."""

__version__ = "0.1.0"
