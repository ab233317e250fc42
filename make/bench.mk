# --- figures: time, memory, instructions, bytes ----------------------------

RELEASE   = $(OUT)/$(TARGET)/release
BENCH    ?=

# One build for each: asked for together, they share features.
.PHONY: examples
examples: build
	$(CARGO) build --release --locked --target $(TARGET) --example floor
	$(CARGO) build --release --locked --target $(TARGET) --example spawn

.PHONY: bench
bench: examples ## measure load, memory, start and idling (BENCH=--quick; BENCH='--body NAME' for one load)
	@./checks/bench/run $(BENCH) '$(BINARY)' '$(RELEASE)/examples/floor' '$(RELEASE)/examples/spawn'

.PHONY: tls-bench
tls-bench: ## measure TLS beside plaintext: load, handshakes, memory (BENCH=--quick)
	@$(MAKE) --no-print-directory build TLS=1
	@./checks/bench/tls $(BENCH) '$(BINARY)'

.PHONY: results
results: examples ## measure, and write docs/results.md and the figures in the documents
	@./checks/bench/run $(BENCH) '$(BINARY)' '$(RELEASE)/examples/floor' '$(RELEASE)/examples/spawn' >'$(OUT)/results.md'
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" checks/image/size --markdown '$(BINARY)' >>'$(OUT)/results.md'
	@$(MAKE) --no-print-directory build TLS=1
	@./checks/bench/tls $(BENCH) '$(BINARY)' >>'$(OUT)/results.md'
	@TLS=1 DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" checks/image/size --markdown '$(BINARY)' >>'$(OUT)/results.md'
	@cp '$(OUT)/results.md' docs/results.md
	@./checks/bench/figures '$(BINARY)'

.PHONY: figures
figures: build ## write the figures of docs/results.md into the documents
	@./checks/bench/figures '$(BINARY)'

.PHONY: instructions
instructions: examples ## count instructions per request, beside the floor's
	@./checks/bench/instructions '$(BINARY)' '$(RELEASE)/examples/floor'

.PHONY: where
where: BODY ?= metric-001
where: setup ## list the functions in which a BODY (metric-001) spends its instructions
	$(CARGO) build --profile profiling --locked --target $(TARGET)
	@./checks/bench/instructions --top $(BODY) '$(OUT)/$(TARGET)/profiling/mygrpcadapter'

.PHONY: instructions-check
instructions-check: build ## compare instructions per request with .ci/instructions
	@./checks/bench/instructions --check .ci/instructions '$(BINARY)'

.PHONY: size
size: build ## compare the sizes of binary and image with .ci/budget (TLS=1: with TLS)
	@TLS=$(TLS) DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" checks/image/size '$(BINARY)'
