# mygrpcadapter: `make help` lists the targets. The folders:
#
#   src/        the adapter; ARCHITECTURE.md is its map
#   crates/     records (reads and renders what is sent), replay (a client for `make replay`)
#   proto/      wire definitions
#   tests/      tests of the running binary, and what real Mixers and Envoys sent
#   fuzz/       fuzz targets
#   examples/   programs for measurements, manifests and `make soak`
#   checks/     Python behind `make *-check`, `image-test` and `bench`; each folder is one of them
#   manifests/  Kubernetes resources, most of them generated
#   samples/    Compose with Envoy, Prometheus and Grafana; alerts, dashboard, systemd unit, shippers
#   docs/       guides, and the measured figures
#   make/       the rest of this file
#   scripts/    shell scripts that building, testing and releasing run
#   .ci/        `run` runs everything; the budgets of size and instructions
#   .cargo/     how the binary is linked

CARGO    ?= cargo
ARCH     ?= $(shell uname -m | sed 's/arm64/aarch64/')
TARGET   ?= $(ARCH)-unknown-linux-musl
PORT     ?= 8000
VOLUME   ?= volume
# 1: with TLS (build, run, size, lint, the image).
TLS      ?=
# More words for the adapter (run), for the client (replay), for cargo (test).
ARGS     ?=

# cargo knows where it builds: its environment and its configuration may say so.
# Asked once, and only by the targets that need it.
OUT       = $(eval OUT := $$(shell $(CARGO) metadata --no-deps --offline --format-version 1 | \
                sed 's/.*"target_directory":"\([^"]*\)".*/\1/'))$(OUT)
FEATURES  = $(if $(filter 1,$(TLS)),--features tls)
BINARY    = $(OUT)/$(TARGET)/release/mygrpcadapter

# mimalloc has the time of its compilation in it; this way that of the commit.
export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)

# Tools that a target needs are built here, not into the user's ~/.cargo.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

.PHONY: help
help: ## list the targets
	@sed -nE 's/^# --- (.*[^ -]) -+$$/\n\1/p; s/^([a-z-]+):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 22

# --- the program -----------------------------------------------------------

.PHONY: setup
setup: ## install what building needs (as root on Debian), or say what is missing
	@CARGO='$(CARGO)' ./scripts/setup $(TARGET)

.PHONY: build
build: setup ## build the static binary
	$(CARGO) build --release --locked --target $(TARGET) $(FEATURES)

.PHONY: run
run: setup ## build and start on ./volume and PORT (8000); ARGS='--format json'
	@mkdir -p '$(VOLUME)'
	$(CARGO) run --release --locked --target $(TARGET) $(FEATURES) -- $(PORT) --volume '$(VOLUME)' $(ARGS)

REPLAY    = $(OUT)/$(TARGET)/release/replay

.PHONY: replay-binary
replay-binary: setup
	$(CARGO) build --release --locked --target $(TARGET) --package replay

.PHONY: replay
replay: setup ## send recorded requests of a Mixer to PORT (8000); ARGS=--help
	$(CARGO) run --release --locked --target $(TARGET) --package replay -- \
	    --to 127.0.0.1:$(PORT) $(or $(ARGS),tests/captures/metric)

# --- tests and lint --------------------------------------------------------

.PHONY: test
test: setup ## run every test that needs no container engine
	@CARGO='$(CARGO)' ./scripts/test --locked --workspace --target $(TARGET) $(ARGS)
	@$(if $(ARGS),,$(MAKE) --no-print-directory tls-test)

.PHONY: tls-test
tls-test: setup ## run the tests of TLS
	@CARGO='$(CARGO)' ./scripts/test --locked --target $(TARGET) --features tls --lib --test adapter -- tls::

.PHONY: check
check: lint ## check lint, formatting, dependencies
	$(CARGO) fmt --all --check
	@./scripts/tool cargo-deny 0.20.2
	$(CARGO) deny --log-level error check bans licenses sources

.PHONY: lint
lint: setup ## run clippy and rustdoc, warnings denied
	$(CARGO) clippy --locked --workspace --target $(TARGET) --all-targets -- -D warnings
	$(CARGO) clippy --locked --target $(TARGET) --all-targets --features tls -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --target $(TARGET) --no-deps

.PHONY: fmt
fmt: ## format the sources
	$(CARGO) fmt --all

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean

include make/fuzz.mk
include make/manifests.mk
include make/envoy.mk
include make/bench.mk
include make/image.mk
include make/release.mk
