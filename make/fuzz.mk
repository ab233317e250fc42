# --- fuzzing, and the soak -------------------------------------------------

FUZZ_TARGETS := $(sort $(basename $(notdir $(wildcard fuzz/targets/*.rs))))
FUZZ_HOST    := $(ARCH)-unknown-linux-gnu
SANITIZER    ?= address
# The sanitizer is an unstable option; this lets the pinned toolchain have it.
CARGO_FUZZ   := RUSTC_BOOTSTRAP=1 $(CARGO) fuzz
# The program asks for memory that nobody has, to have free memory given back.
CARGO_FUZZ   := ASAN_OPTIONS=allocator_may_return_null=1 $(CARGO_FUZZ)
FUZZ_OPTIONS := --target $(FUZZ_HOST) --sanitizer $(SANITIZER)

.PHONY: fuzz-build
fuzz-build: ## build the fuzz targets
	@./scripts/tool cargo-fuzz 0.13.2
	$(CARGO) fetch --locked --manifest-path fuzz/Cargo.toml
	$(CARGO_FUZZ) build $(FUZZ_OPTIONS)

.PHONY: fuzz
fuzz: SECONDS ?= 60
fuzz: fuzz-build ## run each fuzz target for SECONDS (60)
	python3 checks/corpus.py tests/captures fuzz/corpus
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzz $$target"; \
		$(CARGO_FUZZ) run $(FUZZ_OPTIONS) $$target -- -max_total_time=$(SECONDS) -max_len=32768 -timeout=20 \
			-verbosity=0 -print_final_stats=1 || exit 1; \
	done

.PHONY: fuzz-check
fuzz-check: ## check lint, formatting and unit tests of fuzz/
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml --all-targets -- -D warnings
	@CARGO='$(CARGO)' ./scripts/test --locked --manifest-path fuzz/Cargo.toml --lib

.PHONY: soak
soak: SECONDS ?= 600
soak: build ## run the binary under load and faults for SECONDS (600), and account for every record
	$(CARGO) run --locked --target $(TARGET) --example soak -- '$(BINARY)' $(SECONDS)
