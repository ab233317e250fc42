# --- figures: time, memory, instructions, bytes ----------------------------

RELEASE   = $(OUT)/$(TARGET)/release
BENCH    ?=

# One build for each: asked for together, they share features.
.PHONY: examples
examples: build
	$(CARGO) build --release --locked --target $(TARGET) --example floor
	$(CARGO) build --release --locked --target $(TARGET) --example spawn

.PHONY: bench
bench: examples ## measure load, memory, start and idling (BENCH=--quick)
	@./bench/run $(BENCH) '$(BINARY)' '$(RELEASE)/examples/floor' '$(RELEASE)/examples/spawn'

.PHONY: results
results: examples ## write the figures of today into bench/RESULTS.md and the README
	@./bench/run $(BENCH) '$(BINARY)' '$(RELEASE)/examples/floor' '$(RELEASE)/examples/spawn' >'$(OUT)/RESULTS.md'
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" checks/image/size --markdown '$(BINARY)' >>'$(OUT)/RESULTS.md'
	@cp '$(OUT)/RESULTS.md' bench/RESULTS.md
	@./bench/readme

.PHONY: instructions
instructions: examples ## count instructions per request, beside the floor's
	@./bench/instructions '$(BINARY)' '$(RELEASE)/examples/floor'

.PHONY: where
where: BODY ?= metric-001
where: setup ## list the functions that the instructions of a BODY (metric-001) are spent in
	$(CARGO) build --profile profiling --locked --target $(TARGET)
	@./bench/instructions --top $(BODY) '$(OUT)/$(TARGET)/profiling/mygrpcadapter'

.PHONY: instructions-check
instructions-check: build ## compare instructions per request with their budgets
	@./bench/instructions --check .ci/instructions '$(BINARY)'

.PHONY: size
size: build ## compare the sizes of binary and image with their budgets
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" checks/image/size '$(BINARY)'
