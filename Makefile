# mygrpcadapter: `make help` lists what can be made.

CARGO    ?= cargo
ARCH     ?= $(shell uname -m | sed 's/arm64/aarch64/')
TARGET   ?= $(ARCH)-unknown-linux-musl
PORT     ?= 8000
VOLUME   ?= volume
# More words for the adapter (run), for the client (replay), for cargo (test).
ARGS     ?=

# cargo knows where it builds: its environment and its configuration may say so.
# Asked once, and only by the targets that need it.
OUT       = $(eval OUT := $$(shell $(CARGO) metadata --no-deps --offline --format-version 1 | \
                sed 's/.*"target_directory":"\([^"]*\)".*/\1/'))$(OUT)
BINARY    = $(OUT)/$(TARGET)/release/mygrpcadapter

# mimalloc has the time of its compilation in it; this way that of the commit.
export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)

# Tools that a target needs are built here, not into the user's ~/.cargo.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# --- the program -----------------------------------------------------------

.PHONY: setup
setup: ## say what building needs and is missing; install it, as root on Debian
	@CARGO='$(CARGO)' ./scripts/setup $(TARGET)

.PHONY: build
build: setup ## the static binary
	$(CARGO) build --release --locked --target $(TARGET)

.PHONY: run
run: setup ## build and start on ./volume and PORT (8000); ARGS='--format json'
	@mkdir -p '$(VOLUME)'
	$(CARGO) run --release --locked --target $(TARGET) -- $(PORT) --volume '$(VOLUME)' $(ARGS)

REPLAY    = $(OUT)/$(TARGET)/release/replay

.PHONY: replay-binary
replay-binary: setup
	$(CARGO) build --release --locked --target $(TARGET) --package replay

.PHONY: replay
replay: setup ## send recorded requests of a Mixer to PORT (8000); ARGS=--help
	$(CARGO) run --release --locked --target $(TARGET) --package replay -- \
	    --to 127.0.0.1:$(PORT) $(or $(ARGS),tests/captures/metric)

# --- what must hold --------------------------------------------------------

.PHONY: test
test: setup ## every test that needs no container engine
	@CARGO='$(CARGO)' ./scripts/test --locked --workspace --target $(TARGET) $(ARGS)

.PHONY: check
check: lint ## lint, formatting, dependencies
	$(CARGO) fmt --all --check
	@./scripts/tool cargo-deny 0.20.2
	$(CARGO) deny --log-level error check bans licenses sources

.PHONY: lint
lint: setup ## clippy, and documentation, with warnings denied
	$(CARGO) clippy --locked --workspace --target $(TARGET) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --target $(TARGET) --no-deps

.PHONY: fmt
fmt: ## format the sources
	$(CARGO) fmt --all

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean

include make/fuzz.mk
include make/manifests.mk
include make/bench.mk
include make/image.mk
include make/release.mk
