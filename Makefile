# `make image` builds a golden image, `make test` proves winfoundry. Both install what they need and are safe to repeat.

SOURCE     ?=
VIRTIO_WIN ?=
OUTPUT     ?=
NAME       ?= image
FLAGS      ?=
PYTEST     ?=

VENV       := .venv
PYTHON     := $(VENV)/bin/python
WINFOUNDRY := $(VENV)/bin/winfoundry
SUDO       := $(if $(filter 0,$(shell id -u)),,sudo)
SAMPLE     := build/sample
PACKAGES   := $(shell sed '/^\#/d' apt.txt)

# What the tests compare us with, on top: Wine's setupapi and crypt32.
test: PACKAGES += $(shell sed '/^\#/d' apt-test.txt)

.DEFAULT_GOAL := help
.PHONY: help setup packages libvirt image validate test lint format bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make image SOURCE=disk.qcow2 VIRTIO_WIN=virtio-win.iso OUTPUT=output-w10   builds your image"

setup: packages $(VENV)/.done ## install the packages of apt.txt and the virtual environment

packages:
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "==> installing Debian packages:" $$missing; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

# The bindings belong to Debian's python, so the environment is made from it and sees its packages.
$(VENV)/.done: pyproject.toml | packages
	@echo "==> making the virtual environment $(VENV)"
	@/usr/bin/python3 -m venv --system-site-packages $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Ordinary users get libvirt's session daemon, which starts by itself; root uses the system one.
libvirt: | packages
	@if [ "$$(id -u)" = 0 ] && ! virsh -c qemu:///system version >/dev/null 2>&1; then \
	  echo "==> starting libvirt"; \
	  if [ -d /run/systemd/system ]; then systemctl start libvirtd; else virtlogd -d; libvirtd -d; fi; \
	  for i in 1 2 3 4 5 6 7 8 9 10; do virsh -c qemu:///system version >/dev/null 2>&1 && break; sleep 1; done; \
	fi

ifeq ($(SOURCE),)
image: setup libvirt $(SAMPLE)/.done ## build a golden image: of SOURCE= with VIRTIO_WIN=, or of the embedded sample
	@$(WINFOUNDRY) build $(FLAGS) $(if $(OUTPUT),-var output_directory=$(OUTPUT)) pipelines/sample.pkr.hcl
else
image: setup libvirt
	@$(WINFOUNDRY) build $(FLAGS) --name $(NAME) --source $(SOURCE) --virtio-win $(VIRTIO_WIN) $(if $(OUTPUT),--output $(OUTPUT))
endif

$(SAMPLE)/.done: $(wildcard builder/sample/*.*) | setup
	@$(WINFOUNDRY) sample $(SAMPLE)
	@touch $@

validate: setup ## check the pipeline files
	@$(WINFOUNDRY) validate pipelines/*.pkr.hcl

test: setup libvirt ## run all tests, with the real tools
	@$(PYTHON) -m pytest -n 2 --dist loadfile $(PYTEST)

lint: setup ## ruff and mypy --strict
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy --strict builder

format: setup ## let ruff rewrite the code
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

bench: setup ## time the commands as whole processes
	@$(PYTHON) tests/bench/bench.py

clean: ## remove what was built here, and workspaces of killed builds
	@if [ -x $(WINFOUNDRY) ]; then $(WINFOUNDRY) clean .; fi
	@rm -rf build dist output-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
