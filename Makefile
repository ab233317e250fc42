# mygrpcadapter: `make help` lists what can be made.

CARGO    ?= cargo
ARCH     ?= $(shell uname -m | sed 's/arm64/aarch64/')
TARGET   ?= $(ARCH)-unknown-linux-musl
BINARY   := $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/mygrpcadapter
PORT     ?= 8000
SOURCES  := $(shell find src crates proto .cargo -type f) build.rs Cargo.toml Cargo.lock

# mimalloc has the time of its compilation in it; this way that of the commit.
export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# --- the program -----------------------------------------------------------

.PHONY: setup
setup: ## install what building needs, or say what is missing
	@./.ci/setup $(TARGET)

.PHONY: build
build: $(BINARY) ## the static binary

$(BINARY): $(SOURCES) | setup
	$(CARGO) build --release --locked --target $(TARGET)
	@touch $@

.PHONY: run
run: build ## build and start on ./volume and PORT (8000)
	@mkdir -p volume
	$(BINARY) $(PORT) --volume volume

# --- what must hold --------------------------------------------------------

.PHONY: test
test: build ## every test that needs no container engine
	$(CARGO) test --locked --workspace --target $(TARGET)

.PHONY: check
check: lint ## lint, formatting, dependencies
	$(CARGO) fmt --all --check
	@command -v cargo-deny >/dev/null || $(CARGO) install --quiet --locked cargo-deny
	$(CARGO) deny --log-level error check bans licenses sources

.PHONY: lint
lint: | setup ## clippy, and documentation, with warnings denied
	$(CARGO) clippy --locked --workspace --target $(TARGET) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --target $(TARGET) --no-deps --quiet

.PHONY: fmt
fmt: ## format the sources
	$(CARGO) fmt --all

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean

include fuzz.mk
include manifests.mk
include bench.mk
include image.mk
include release.mk
