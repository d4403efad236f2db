# The embedded sample: a Windows-shaped disk and a driver disc made on this machine (`winfoundry sample DIR`).
# It shows every part of a pipeline file; windows.pkr.hcl is the one to copy for an image of yours.
#
#   make image                                       makes the sample and builds it
#   winfoundry build pipelines/sample.pkr.hcl        builds it again
#   winfoundry build -var output_directory=/srv/golden pipelines/sample.pkr.hcl
#
# Paths are relative to the current directory, as in Packer.

variable "source" {
  type        = string
  default     = "build/sample/sample-bios.qcow2"
  description = "The image to start from: qcow2, no backing file. It is never written."
}

variable "virtio_win" {
  type        = string
  default     = "build/sample/sample-drivers.iso"
  description = "The driver disc: an ISO in the layout of virtio-win, or a folder with its files."
}

variable "output_directory" {
  type        = string
  default     = "output-sample"
  description = "Where the finished image appears, all at once, when everything has succeeded."
}

source "winfoundry" "sample" {
  source           = var.source
  virtio_win       = var.virtio_win
  output_directory = var.output_directory

  # The sample's drivers are signed by a throw-away CA, so Windows would load them in test mode only.
  # "auto" turns test mode on exactly when a chosen driver needs it; "on" and "off" insist.
  test_signing = "auto"

  # The built image is booted from this disk, and checked, before it is published.
  disk_interface = "virtio"
  boot_timeout   = "10m"
  checks         = ["virtio_ready"]

  # The domain.xml published beside the image.
  cpus         = 2
  memory       = 2048
  machine_type = "q35"
}

build {
  sources = ["source.winfoundry.sample"]
}
