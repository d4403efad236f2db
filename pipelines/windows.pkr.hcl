# A template for an image of yours: an installed Windows (from IDE or SATA) and the virtio-win disc of the Fedora project.
#
#   winfoundry validate pipelines/windows.pkr.hcl
#   winfoundry build -var source=win11.qcow2 -var virtio_win=virtio-win.iso -var name=win11 pipelines/windows.pkr.hcl
#
# The guest must have been shut down with `shutdown /s /t 0`, with Fast Startup off (`powercfg /h off`).

variable "name" {
  type        = string
  default     = "windows"
  description = "What the virtual machine is called in domain.xml; the image goes to output-<name>."
}

variable "source" {
  type        = string
  default     = "windows.qcow2"
  description = "The installed image: qcow2, no backing file (`qemu-img convert -O qcow2` makes one). It is never written."
}

variable "source_checksum" {
  type        = string
  default     = "none"
  description = "sha256:HEX, file:SHA256SUMS, or none."
}

variable "virtio_win" {
  type        = string
  default     = "virtio-win.iso"
  description = "The virtio-win ISO, or a folder with its files."
}

variable "virtio_win_checksum" {
  type        = string
  default     = "none"
  description = "sha256:HEX, file:SHA256SUMS, or none."
}

variable "accelerator" {
  type        = string
  default     = "auto"
  description = "auto takes KVM where it works, else tcg, which is much slower."
}

source "winfoundry" "windows" {
  source              = var.source
  source_checksum     = var.source_checksum
  virtio_win          = var.virtio_win
  virtio_win_checksum = var.virtio_win_checksum
  output_directory    = "output-${var.name}"
  vm_name             = var.name

  # Without viostor and vioscsi no image is virtio-ready; what else the disc has is installed where it fits.
  drivers = {
    netkvm   = "required"
    balloon  = "optional"
    viogpudo = "skip"
  }

  # driver_folders = ["acme"] # drivers of anybody else, known by the names of their INFs and required
  # test_signing   = "on"     # insist on test mode; "auto" (the default) uses it when a driver needs it
  # secure_boot    = true     # UEFI with Secure Boot: only drivers signed by Microsoft load
  # disk_interface = "virtio-scsi"
  # vtpm           = true     # a TPM 2.0; your host needs swtpm
  # network        = "default"                            # a network of libvirt; or net_bridge = "br0"
  # devices        = { rng = "required", vsock = "skip" } # agent, rng, balloon, panic, input, vsock, watchdog
  # compress       = true     # a smaller image, slower to make

  accelerator  = var.accelerator
  boot_timeout = "30m"
  cpus         = 2
  memory       = 4096
}

build {
  sources = ["source.winfoundry.windows"]
}
