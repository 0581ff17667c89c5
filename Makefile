# skeg: what people and CI run. `make help` lists the targets.

PREFIX ?= /usr/local
# Below PREFIX; Debian's packages have share/zsh/vendor-completions.
ZSH_COMPLETIONS ?= share/zsh/site-functions
CARGO ?= cargo
RUNC ?= $(shell command -v runc)
# What `make build` makes.
PROGRAMS := skeg containerd-shim-skeg-v2

# The C library is linked statically where an explicit target keeps the flag away from proc macros, which cannot be. The names of
# functions are as runtime/text-order.ld has them.
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
STATIC := RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C symbol-mangling-version=v0" CARGO_BUILD_TARGET=$(HOST)
SPEC_TESTS := $(or $(CARGO_TARGET_DIR),target)/$(HOST)/debug/spec-tests
DEBIAN_ROOT := $(CURDIR)/.cache/debian-root
VM := spec-tests/vm
# By their first line: some scripts beside them are Python.
SHELL_SCRIPTS = $(shell grep -lsE '^.!/bin/(ba|busybox )?sh$$' .ci/run fuzz/run scripts/* $(VM)/* $(VM)/guest/* spec-tests/containerd/*)
# Repetitions of the repeating cases: all for skeg, few for the runtime that it is compared with.
SOAK ?= 1000
# Copies of the tree that mutants are tried in.
JOBS ?= 2
# Every so many system calls are met by `make test`'s sweep; all by `make sweep`.
EVERY ?= 47
# Seconds for each fuzz target.
SECONDS ?= 120
# A workspace of its own; the C++ of libFuzzer is not compiled where nothing is linked.
# The macro of its crate opens files by name, which clippy.toml bans.
NO_LIBFUZZER := CUSTOM_LIBFUZZER_PATH=none/libfuzzer.a

.DEFAULT_GOAL := help
# Every target that has a line in the help.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\#.*/\1/p' $(MAKEFILE_LIST))

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: runtime shim ## release binaries, static and stripped, in bin/

# For the target that scripts/runtime-target names, with musl where there is one.
runtime: ## the runtime alone
	mkdir -p bin
	target=$$(scripts/runtime-target $(HOST)) && \
	    $(STATIC) $(CARGO) build --release --locked -p skeg --target $$target && \
	    install -m 0755 $(or $(CARGO_TARGET_DIR),target)/$$target/release/skeg bin/

shim: ## the containerd shim alone (its own profile: it outlives a fault in one request)
	$(STATIC) $(CARGO) build --profile release-shim --locked -p containerd-shim-skeg-v2
	mkdir -p bin
	install -m 0755 $(or $(CARGO_TARGET_DIR),target)/$(HOST)/release-shim/containerd-shim-skeg-v2 bin/

all: build man ## both programs, man pages and completions: what there is to install

man: ## man pages and shell completions, in bin/man and bin/completions
	$(STATIC) $(CARGO) run --release --locked --quiet -p manual -- bin

install: ## install what is in bin/ under PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(PROGRAMS:%=bin/%) $(DESTDIR)$(PREFIX)/bin/
ifneq ($(wildcard bin/man),)
	install -d $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 0644 bin/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	install -m 0644 bin/completions/skeg.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/skeg
	install -D -m 0644 bin/completions/_skeg $(DESTDIR)$(PREFIX)/$(ZSH_COMPLETIONS)/_skeg
	install -D -m 0644 bin/completions/skeg.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/skeg.fish
endif

deb: all ## a Debian package of it all, in bin/
	scripts/make-deb

deb-test: deb ## the package in clean Debian roots: installed, its manual read, the README followed with each engine (minutes)
	scripts/test-deb bin/skeg_*_$(shell dpkg --print-architecture).deb

demo: runtime $(SPEC_TESTS) ## run a container and let it report from inside what isolates it
	$(SPEC_TESTS) demo --runtime bin/skeg

conformance: build test-deps ## the suites of others against bin/skeg: fetched, built, each case compared with what is expected
	spec-tests/conformance/run --runtime $(CURDIR)/bin/skeg --name skeg

# The runtimes that skeg is measured beside: Debian sid's, and runc of this machine's Debian.
PEERS ?= .cache/peers/bin/crun runc-sid=.cache/peers/bin/runc $(RUNC) $(wildcard .cache/youki/bin/youki)

.PHONY: peers
peers:
	scripts/install-test-deps patchelf musl-tools
	scripts/get-debian sid .cache/peers runc,crun /usr/sbin/runc /usr/bin/crun

youki: ## youki from the crate registry, for bench and bench-v2 to measure beside the others (minutes)
	scripts/get-youki .cache/youki

bench: runtime peers ## speed and memory beside crun and runc (or PEERS="NAME=PATH ...") and the kernel's floor: ratios, never a test
	bench/run bin/skeg $(PEERS) --svg docs/bench.svg --write docs/bench.md --write README.md

bench-v2: runtime peers ## the same on the core of pure cgroup v2, without the series
	$(VM)/v2only bench/run bin/skeg $(PEERS) --section run --section commands --section memory --write README.md

bench-mounts: runtime peers ## run with 20 to 2000 mounts on the host, in the guest with the kernel of Debian sid (minutes)
	VM_RELEASE=sid VM_CORE=yes $(VM)/mounts 10 skeg=bin/skeg crun=.cache/peers/bin/crun runc=.cache/peers/bin/runc

bench-shim: build test-deps ## the shim beside the Go shim with runc: ctr run and exec, memory, idleness, throughput
	scripts/install-test-deps containerd umoci
	bench/shim bin/containerd-shim-skeg-v2 bin/skeg --runc $(RUNC)

test: check vm-lane conformance shim-test engines ## everything that is tested on this machine: the project's own tests, others' suites, real managers (45 minutes)

check: test-deps fmt lint unit build spec-tests compare sweep-sample ## the project's own tests alone (10 minutes)

fmt: ## check the formatting
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --check --manifest-path fuzz/Cargo.toml

lint: ## clippy without warnings, shell scripts without mistakes
	$(STATIC) $(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(NO_LIBFUZZER) $(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml --target-dir $(or $(CARGO_TARGET_DIR),target)/fuzz-lint -- -D warnings -A clippy::disallowed_methods
	shellcheck -x $(SHELL_SCRIPTS) spec-tests/engines/run spec-tests/engines/*.sh

unit: ## unit and integration tests of every crate
	$(STATIC) $(CARGO) test --locked --workspace

# The suite finds what the Debian root holds by this variable; without it those cases are skipped.
spec-tests: $(SPEC_TESTS) $(DEBIAN_ROOT) ## the black-box suite: bin/skeg, then runc, whose deviations are listed
	SPEC_TESTS_DEBIAN_ROOT=$(DEBIAN_ROOT) $(SPEC_TESTS) --runtime bin/skeg --soak $(SOAK)
	SPEC_TESTS_DEBIAN_ROOT=$(DEBIAN_ROOT) $(SPEC_TESTS) --runtime $(RUNC) --soak 50

sweep: build $(SPEC_TESTS) ## a kill and a failing call at every system call of create, start, exec, update, run, delete (half an hour)
	$(SPEC_TESTS) sweep --runtime bin/skeg

.PHONY: sweep-sample
sweep-sample: $(SPEC_TESTS)
	$(SPEC_TESTS) sweep --runtime bin/skeg --every $(EVERY)

# SUITES="spec-tests containerd engines runtime-tools runc crun": those suites.
policy: build $(SPEC_TESTS) ## the rules about system calls (T7), asserted of every call of the runtime that the suites make (minutes each)
	scripts/policy $(SPEC_TESTS) bin/skeg $(SUITES)

# ROW="C4 F15": those rows alone. JOBS=2: in so many copies of the tree.
mutants: $(SPEC_TESTS) ## the proof that the tests of the security catalogue can fail: builds of skeg with one check turned off each (an hour)
	JOBS=$(JOBS) scripts/mutants $(ROW)

compare: $(SPEC_TESTS) ## the same bundles under skeg and runc, what they see compared key by key
	$(SPEC_TESTS) --runtime bin/skeg --compare $(RUNC)

# All controllers of the machine but hugetlb stay with version 1, whose cases are skipped; the guest has them.
v2only-test: build $(SPEC_TESTS) ## the black-box suite and the cgroup tests on the core of pure cgroup v2, at native speed
	$(VM)/v2only $(SPEC_TESTS) --runtime bin/skeg --soak 20
	$(STATIC) $(VM)/v2only $(CARGO) test --locked -p skeg --lib cgroup::

LANE := $(VM)/lane bin/skeg bin/containerd-shim-skeg-v2 $(SPEC_TESTS)

# What the machine itself cannot show. SUITES="runc podman-of-runc": those suites; `spec-tests/vm/lane` lists all, also those that
# continuous integration leaves out. A limit in time is there to end what hangs: no case depends on speed.
vm-lane: build $(SPEC_TESTS) ## suites in guests with pure cgroup v2, systemd and AppArmor: spec-tests, runc's, podman, the shim (twenty minutes)
	$(LANE) $(SUITES)

vm-ci: build $(SPEC_TESTS) ## of them the cases of spec-tests about cgroups, systemd, AppArmor and SELinux alone, in a smaller guest (4 minutes)
	VM_CORE=yes $(LANE) systemd cgroups selinux

vm-test: build $(SPEC_TESTS) ## spec-tests alone there, all of it with and without --systemd-cgroup
	$(LANE) spec-tests-systemd spec-tests selinux

# What is made of the root file system where a mount namespace needs no copy of the host's (Linux 7.0).
VM_MOUNTS := a1_,a5_,a7_,a14_,b4_,t7_,mount_,mounts,propagation,rootfs,hostname
vm-sid: build $(SPEC_TESTS) ## the cases about mounts and the root file system on the kernel of Debian sid (5 minutes)
	VM_RELEASE=sid VM_CORE=yes VM_TIMEOUT=1200 $(VM)/test bin/skeg $(SPEC_TESTS) --alone --patience 12 --soak 5 --filter $(VM_MOUNTS)

# Left out are two that give themselves a time that no emulated processor keeps.
vm-unit: ## the runtime's unit tests and its tests with containers in that guest
	$(VM)/make-guest
	$(STATIC) $(CARGO) test --locked -p skeg --lib --test containers \
		--config 'target.$(HOST).runner="$(CURDIR)/$(VM)/run-in-guest --share $(CURDIR) --env TMPDIR=/var/tmp --"' \
		-- --skip g5_hostile_text --skip properties::oom_score
	$(STATIC) $(CARGO) test --locked -p skeg --test rootfs \
		--config 'target.$(HOST).runner="$(CURDIR)/$(VM)/run-in-guest --share $(CURDIR) --env TMPDIR=/var/tmp --"'

vm-shell: ## a shell in that guest, which sees this directory; the guest ends with it
	$(VM)/make-guest
	$(VM)/run-in-guest --timeout 86400 --terminal -- bash

# Always handed to cargo, which knows what is up to date.
.PHONY: $(SPEC_TESTS)
$(SPEC_TESTS):
	$(STATIC) $(CARGO) build --locked -p spec-tests

$(DEBIAN_ROOT):
	scripts/make-debian-root $@

ENGINE_PACKAGES := podman buildah conmon containerd docker.io tini catatonit containernetworking-plugins iproute2 iptables procps \
	docker-registry slirp4netns uidmap

engines: build ## podman, buildah, conmon, containerd and Docker Engine with skeg and its shim, each step beside runc (minutes)
	scripts/install-test-deps $(ENGINE_PACKAGES)
	spec-tests/engines/run --runtime bin/skeg --shim bin/containerd-shim-skeg-v2

DOCKER_TRIXIE := .cache/docker-trixie
engines-trixie: build ## a newer Docker Engine, that of Debian trixie, with skeg and with its shim by type, each step beside runc (minutes)
	scripts/install-test-deps $(ENGINE_PACKAGES) patchelf
	scripts/get-debian trixie $(DOCKER_TRIXIE) docker.io,docker-cli,containerd /usr/bin/containerd /usr/bin/containerd-shim-runc-v2 \
		/usr/sbin/dockerd /usr/sbin/docker-proxy /usr/bin/docker-init /usr/bin/docker
	ENGINES_DOCKER=$(CURDIR)/$(DOCKER_TRIXIE) spec-tests/engines/run --runtime bin/skeg --shim bin/containerd-shim-skeg-v2 docker-trixie

engines-times: build ## how long commands of Docker, podman, buildah and containerd take with skeg and with runc: into docs/engines-times.md (10 minutes)
	scripts/install-test-deps $(ENGINE_PACKAGES)
	spec-tests/engines/run --jobs 1 --runtime bin/skeg --shim bin/containerd-shim-skeg-v2 times

podman-system: build ## podman's own system tests with skeg, compared with what is expected (half an hour)
	scripts/install-test-deps $(ENGINE_PACKAGES) bats jq socat openssl netcat-openbsd
	spec-tests/conformance/fetch bookworm libpod .cache/libpod
	spec-tests/engines/run --runtime bin/skeg --shim bin/containerd-shim-skeg-v2 podman-system

shim-test: build $(SPEC_TESTS) ## the shim with containerd 1.6 and 2, with skeg and with runc, and the Go shim with skeg (minutes)
	scripts/install-test-deps containerd umoci containernetworking-plugins python3-grpcio python3-grpc-tools python3-websocket patchelf
	spec-tests/containerd/all
	$(SPEC_TESTS) shim-walk $(SHIM_AND_RUNTIME) --seconds 20
	$(SPEC_TESTS) shim-sweep $(SHIM_AND_RUNTIME) --every 29

SHIM_AND_RUNTIME := --shim bin/containerd-shim-skeg-v2 --runtime bin/skeg
shim-walk: build $(SPEC_TESTS) ## 64 clients ask one shim for anything for five minutes, each answer compared with a model
	$(SPEC_TESTS) shim-walk $(SHIM_AND_RUNTIME) --seconds 300

shim-sweep: build $(SPEC_TESTS) ## a kill, or a failing call, at every system call of the shim and of the runtime below it (quarter of an hour)
	$(SPEC_TESTS) shim-sweep $(SHIM_AND_RUNTIME)

fuzz: ## libFuzzer on each parser for SECONDS (120) each, from the corpus in fuzz/
	fuzz/run $(SECONDS)

test-deps: ## install what the tests need (Debian packages by name)
	scripts/install-test-deps

text-order: ## which functions the commands execute, for the linker to put beside each other: runtime/text-order.ld (quarter of an hour)
	scripts/install-test-deps gcc busybox-static
	target=$$(scripts/runtime-target $(HOST)) && $(STATIC) CARGO_BUILD_TARGET=$$target scripts/text-order

deny: ## licences, sources and bans of every crate in the lock files (installs cargo-deny, minutes the first time)
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check licenses bans sources
	cd fuzz && $(CARGO) deny --locked --config ../deny.toml check licenses bans sources

clean: ## remove what was built
	$(CARGO) clean
	rm -rf bin .cache
