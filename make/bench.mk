# Figures: what the adapter costs, on this machine and in instructions.

RELEASE   = $(OUT)/$(TARGET)/release
PROFILED  = $(OUT)/$(TARGET)/profiling
BENCH    ?=

# Each example as cargo would make it alone: asked for together, they share
# features.
.PHONY: examples
examples: build
	$(CARGO) build --release --locked --target $(TARGET) --example floor
	$(CARGO) build --release --locked --target $(TARGET) --example spawn
	$(CARGO) build --release --locked --target $(TARGET) --example stages

.PHONY: profiled
profiled: setup
	$(CARGO) build --profile profiling --locked --target $(TARGET)

.PHONY: profiled-examples
profiled-examples: profiled
	$(CARGO) build --profile profiling --locked --target $(TARGET) --example floor
	$(CARGO) build --profile profiling --locked --target $(TARGET) --example stages

MEASURED  = '$(BINARY)' '$(RELEASE)/examples/floor' '$(RELEASE)/examples/spawn' '$(RELEASE)/examples/stages'

.PHONY: bench
bench: examples ## load, stages, memory, start and idling (BENCH=--quick)
	@./bench/run $(BENCH) $(MEASURED)

# The figures of record, and the README has to say the same: `make test` looks.
.PHONY: results
results: examples ## take the figures anew into bench/RESULTS.md (BENCH=--quick)
	@./bench/run --markdown $(BENCH) $(MEASURED) >'$(OUT)/RESULTS.md'
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" checks/image/size --markdown '$(BINARY)' >>'$(OUT)/RESULTS.md'
	@cp '$(OUT)/RESULTS.md' bench/RESULTS.md

.PHONY: instructions
instructions: profiled-examples ## instructions per request, by callgrind
	@./bench/instructions $(BENCH) '$(PROFILED)/mygrpcadapter' '$(PROFILED)/examples/floor' \
	    --stages '$(PROFILED)/examples/stages'

.PHONY: where
where: BODY ?= metric-001
where: profiled ## where the instructions of a BODY (metric-001) go: functions, crates, files
	@./bench/instructions --top $(BODY) '$(PROFILED)/mygrpcadapter'

.PHONY: instructions-check
instructions-check: profiled ## fail where .ci/instructions is exceeded
	@./bench/instructions --check .ci/instructions '$(PROFILED)/mygrpcadapter'
