# What people and CI run. `make help` lists the targets.

CARGO ?= cargo
# Tools that are built once, outside the checkout.
TOOLS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rollcall/tools
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(TOOLS)/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
CARGO_DEB_VERSION := 3.8.0
CARGO_DEB := $(TOOLS)/cargo-deb-$(CARGO_DEB_VERSION)/bin/cargo-deb
CARGO_GENERATE_RPM_VERSION := 0.21.1
CARGO_GENERATE_RPM := $(TOOLS)/cargo-generate-rpm-$(CARGO_GENERATE_RPM_VERSION)/bin/cargo-generate-rpm
# What packages are built with; dev is quicker.
PACKAGE_PROFILE ?= release
# How many cases of each property `make soak` tries.
SOAK_CASES ?= 20000
# How many lives of an aggregator with a network that fails.
SOAK_RUNS ?= 1000
# How many times the leader of several aggregators is killed.
SOAK_KILLS ?= 100
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## Lists the targets.
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

.PHONY: demo
demo: build ## Does the main job on this very machine: probe, report, assemble, register.
	@tests/demo.sh $(TARGET_DIR)/debug

.PHONY: build
build: prerequisites ## Builds all programs.
	$(CARGO) build --locked --workspace --bins

.PHONY: test
test: prerequisites ## Passes all tests that need no cluster.
	@# What the probes are compared with, and devices are made with; without them, tests show as not run.
	-@command -v ethtool >/dev/null && command -v ip >/dev/null || tests/install.sh ethtool iproute2
	@# InterLink's way to the API, in tests.
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v nginx >/dev/null || tests/install.sh nginx-light
	-@command -v prometheus >/dev/null && command -v promtool >/dev/null || tests/install.sh prometheus
	@# Certificates, in tests.
	@command -v openssl >/dev/null || tests/install.sh openssl
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --workspace
	tests/demo.sh $(TARGET_DIR)/debug </dev/null
	tests/units.sh
	tests/packaging.sh $(TARGET_DIR)/debug
	tests/api.sh $(TARGET_DIR)/debug

.PHONY: test-cluster
test-cluster: build ## Tests on a real Kubernetes of two nodes, set up here for as long as it takes.
	CARGO="$(CARGO)" tests/cluster/test.sh

.PHONY: test-host
test-host: prerequisites ## Tests the packages as files, and on machines with a real systemd, set up here for as long as it takes.
	$(MAKE) packages PACKAGE_PROFILE=dev PACKAGES_DIR=$(TARGET_DIR)/test-packages
	tests/packages.sh $(TARGET_DIR)/test-packages
	CARGO="$(CARGO)" tests/host/test.sh $(TARGET_DIR)/test-packages

.PHONY: test-page
test-page: build ## Tests the aggregator's page in a real browser; UPDATE_README=1 writes README's picture anew.
	tests/page.sh $(TARGET_DIR)/debug

.PHONY: soak
soak: prerequisites ## Tests that take long: a network that fails and kill -9 a thousand times, a driver that hangs, a real Kubernetes for long, a node without a network for ten minutes, each property over many cases.
	$(CARGO) build --locked --workspace --bins
	ROLLCALL_RUNS=$(SOAK_RUNS) $(CARGO) test --locked -p rollcall-tests --test flow_faults -- --nocapture
	$(CARGO) test --locked -p rollcall-tests --test nvml_hang -- --ignored --nocapture
	ROLLCALL_KILLS=$(SOAK_KILLS) CARGO="$(CARGO)" tests/cluster/test.sh --include-ignored
	$(MAKE) packages PACKAGE_PROFILE=dev PACKAGES_DIR=$(TARGET_DIR)/test-packages
	CARGO="$(CARGO)" tests/host/test.sh $(TARGET_DIR)/test-packages --include-ignored
	PROPTEST_CASES=$(SOAK_CASES) $(CARGO) test --locked --workspace --lib
	PROPTEST_CASES=$(SOAK_CASES) $(CARGO) test --locked -p rollcall-aggregator --test truth --test document --test plan --test shared_roll
	PROPTEST_CASES=$(SOAK_CASES) $(CARGO) test --locked -p rollcall-tests --test amend
	PROPTEST_CASES=$$(($(SOAK_CASES) / 10)) $(CARGO) test --locked -p rollcall-tests --test saved_machines

# What `make bench` measures: some of "agent intake memory document reads store", for clusters of so many nodes.
SECTIONS ?=
NODES ?= 10000
MANY ?= 100000
# How often its agents report, in seconds.
INTERVAL ?= 60

.PHONY: bench
bench: prerequisites ## What rollcall takes and how quick it is, beside its bounds and its peers: a table, and target/bench/figures.json.
	@# Without them, what they are for shows as not measured.
	-@command -v strace >/dev/null || tests/install.sh strace
	@command -v openssl >/dev/null || tests/install.sh openssl
	-@command -v prometheus-node-exporter >/dev/null || tests/install.sh prometheus-node-exporter
	@# Each by itself: built together, the agent would carry what only the aggregator asks of their libraries.
	$(CARGO) build --locked --release --config agent/release.toml -p rollcall-agent
	$(CARGO) build --locked --release -p rollcall-aggregator
	$(CARGO) build --locked --release -p rollcall-swarm
	SECTIONS="$(SECTIONS)" NODES="$(NODES)" MANY="$(MANY)" INTERVAL="$(INTERVAL)" ROLLCALL_TEST_PROGRAMS="$(abspath $(TARGET_DIR))/release" \
		$(CARGO) bench --locked -p rollcall-tests --bench figures

.PHONY: bench-parts
bench-parts: prerequisites ## How long each part takes by itself: a probe here and on every saved machine, and what does no I/O.
	$(CARGO) build --locked --release --config agent/release.toml -p rollcall-agent
	ROLLCALL_TEST_PROGRAMS="$(abspath $(TARGET_DIR))/release" $(CARGO) bench --locked -p rollcall-tests --bench probe --bench pure

.PHONY: lint
lint: prerequisites $(CARGO_DENY) ## Formatting, clippy, documentation, licences and sources of dependencies.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(CARGO_DENY) --locked check licenses bans sources

.PHONY: golden
golden: ## Writes the golden files anew; look at the difference before you commit it.
	EXPECTORATE=overwrite $(CARGO) test --locked -p rollcall-agent --test hosts
	EXPECTORATE=overwrite $(CARGO) test --locked -p rollcall-tests --test assemble
	EXPECTORATE=overwrite $(CARGO) test --locked -p rollcall-aggregator --test openapi

.PHONY: release
release: prerequisites ## Builds the two programs as they are shipped.
	@# Each by itself: built together, the agent would carry what only the aggregator asks of their libraries.
	$(CARGO) build --locked --release --config agent/release.toml -p rollcall-agent
	$(CARGO) build --locked --release -p rollcall-aggregator

.PHONY: packages
packages: prerequisites $(CARGO_DEB) $(CARGO_GENERATE_RPM) ## Builds the Debian packages and RPMs of both programs (PACKAGE_PROFILE, PACKAGE_VERSION, PACKAGE_MAINTAINER, PACKAGES_DIR).
	@# What the programs need of the system is asked of dpkg.
	@command -v dpkg-shlibdeps >/dev/null || tests/install.sh dpkg-dev
	CARGO="$(CARGO)" packaging/packages.sh $(TARGET_DIR) $(PACKAGE_PROFILE) $(CARGO_DEB) $(CARGO_GENERATE_RPM)

.PHONY: clean
clean: ## Removes what was built here.
	$(CARGO) clean

$(CARGO_DENY):
	$(CARGO) install --locked --root $(TOOLS)/cargo-deny-$(CARGO_DENY_VERSION) cargo-deny@$(CARGO_DENY_VERSION)

$(CARGO_DEB):
	$(CARGO) install --locked --root $(TOOLS)/cargo-deb-$(CARGO_DEB_VERSION) cargo-deb@$(CARGO_DEB_VERSION)

$(CARGO_GENERATE_RPM):
	$(CARGO) install --locked --root $(TOOLS)/cargo-generate-rpm-$(CARGO_GENERATE_RPM_VERSION) cargo-generate-rpm@$(CARGO_GENERATE_RPM_VERSION)

# Rust, and a C compiler for SQLite and the cryptography.
.PHONY: prerequisites
prerequisites:
	@command -v $(CARGO) >/dev/null || { echo "make: Rust is missing: install it with rustup or your distribution" >&2; exit 1; }
	@command -v cc >/dev/null || tests/install.sh gcc libc6-dev
