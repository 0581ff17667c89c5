# skeg: what people and CI run. `make help` lists the targets.

PREFIX ?= /usr/local
CARGO ?= cargo
RUNC ?= $(shell command -v runc)
# Programs that `make build` makes, and the packages that they come from.
PROGRAMS := skeg
PACKAGES := skeg

# glibc is linked statically where an explicit target keeps the flag away from proc macros, which cannot be.
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
STATIC := RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" CARGO_BUILD_TARGET=$(HOST)
SPEC_TESTS := $(or $(CARGO_TARGET_DIR),target)/$(HOST)/debug/spec-tests
DEBIAN_ROOT := $(CURDIR)/.cache/debian-root
VM := spec-tests/vm
# By their first line: some scripts beside them are Python.
SHELL_SCRIPTS = $(shell grep -lsE '^.!/bin/(ba|busybox )?sh$$' .ci/run scripts/* $(VM)/* $(VM)/guest/*)
# Repetitions of the repeating cases: all for skeg, few for the runtime that it is compared with.
SOAK ?= 1000

.DEFAULT_GOAL := help
.PHONY: help build shim install demo conformance bench test lint fmt unit spec-tests compare engines v2only-test vm-test vm-unit vm-shell test-deps deny clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: ## release binaries, static and stripped, in bin/
	$(STATIC) $(CARGO) build --release --locked $(PACKAGES:%=-p %)
	mkdir -p bin
	install -m 0755 $(PROGRAMS:%=$(or $(CARGO_TARGET_DIR),target)/$(HOST)/release/%) bin/

install: ## install the binaries of bin/ under PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(PROGRAMS:%=bin/%) $(wildcard bin/containerd-shim-skeg-v2) $(DESTDIR)$(PREFIX)/bin/

demo: build $(SPEC_TESTS) ## run a container and let it report from inside what isolates it
	$(SPEC_TESTS) demo --runtime bin/skeg

shim: ## the containerd shim, static and stripped, in bin/ (its own profile: it outlives a fault in one request)
	$(STATIC) $(CARGO) build --profile release-shim --locked -p containerd-shim-skeg-v2
	mkdir -p bin
	install -m 0755 $(or $(CARGO_TARGET_DIR),target)/$(HOST)/release-shim/containerd-shim-skeg-v2 bin/

conformance: build ## the suites of others against bin/skeg: fetched, built, each case compared with what is expected
	spec-tests/conformance/run --runtime $(CURDIR)/bin/skeg --name skeg

bench: build test-deps ## speed and peak memory of run, beside runc: ratios, never a test
	scripts/bench-run bin/skeg $(RUNC)

test: test-deps fmt lint unit build spec-tests compare ## everything that is tested

fmt: ## check the formatting
	$(CARGO) fmt --all --check

lint: ## clippy without warnings, shell scripts without mistakes
	$(STATIC) $(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	shellcheck -x $(SHELL_SCRIPTS)

unit: ## unit and integration tests of every crate
	$(STATIC) $(CARGO) test --locked --workspace

# The suite finds what the Debian root holds by this variable; without it those cases are skipped.
spec-tests: $(SPEC_TESTS) $(DEBIAN_ROOT) ## the black-box suite: bin/skeg, then runc, whose deviations are listed
	SPEC_TESTS_DEBIAN_ROOT=$(DEBIAN_ROOT) $(SPEC_TESTS) --runtime bin/skeg --soak $(SOAK)
	SPEC_TESTS_DEBIAN_ROOT=$(DEBIAN_ROOT) $(SPEC_TESTS) --runtime $(RUNC) --soak 50

compare: $(SPEC_TESTS) ## the same bundles under skeg and runc, what they see compared key by key
	$(SPEC_TESTS) --runtime bin/skeg --compare $(RUNC)

# All controllers of the machine but hugetlb stay with version 1, whose cases are skipped; the guest has them.
v2only-test: build $(SPEC_TESTS) ## the black-box suite and the cgroup tests on the core of pure cgroup v2, at native speed
	$(VM)/v2only $(SPEC_TESTS) --runtime bin/skeg --soak 20
	$(STATIC) $(VM)/v2only $(CARGO) test --locked -p skeg --lib cgroup::

# 1800 s at the most, after which the guest is ended. Emulation takes ten times as long as the machine itself, and more.
vm-test: build $(SPEC_TESTS) ## the black-box suite in a guest with pure cgroup v2, systemd and AppArmor (minutes)
	$(VM)/test bin/skeg $(SPEC_TESTS) --alone --patience 4 --soak 20

# Left out are two that give themselves a time that no emulated processor keeps, and tests/rootfs.rs, which expects version 1.
vm-unit: ## the runtime's unit tests and its tests with containers in that guest
	$(VM)/make-guest
	$(STATIC) $(CARGO) test --locked -p skeg --lib --test containers \
		--config 'target.$(HOST).runner="$(CURDIR)/$(VM)/run-in-guest --share $(CURDIR) --env TMPDIR=/var/tmp --"' \
		-- --skip g5_hostile_text --skip properties::oom_score

vm-shell: ## a shell in that guest, which sees this directory; the guest ends with it
	$(VM)/make-guest
	$(VM)/run-in-guest --timeout 86400 --terminal -- bash

# Always handed to cargo, which knows what is up to date.
.PHONY: $(SPEC_TESTS)
$(SPEC_TESTS):
	$(STATIC) $(CARGO) build --locked -p spec-tests

$(DEBIAN_ROOT):
	scripts/make-debian-root $@

engines: build ## podman, buildah, conmon, containerd and Docker Engine with skeg, each step beside runc (minutes)
	scripts/install-test-deps podman buildah conmon containerd docker.io tini containernetworking-plugins iproute2 iptables
	spec-tests/engines/run --runtime bin/skeg --reference $(RUNC)

test-deps: ## install what the tests need (Debian packages by name)
	scripts/install-test-deps

deny: ## licences, sources and bans of every crate in the lock file (installs cargo-deny, minutes the first time)
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --offline --locked check licenses bans sources

clean: ## remove what was built
	$(CARGO) clean
	rm -rf bin .cache
