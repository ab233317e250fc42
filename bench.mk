# Figures: what the adapter costs, on this machine and in instructions.

RELEASE  := $(dir $(BINARY))
PROFILED := $(RELEASE:release/=profiling/)
FLOOR    := $(RELEASE)examples/floor
SPAWN    := $(RELEASE)examples/spawn
STAGES   := $(RELEASE)examples/stages
BENCH    ?=

# Each as cargo would make it alone: asked for together, they share features.
$(FLOOR) $(SPAWN) $(STAGES): $(RELEASE)examples/%: $(SOURCES) examples/%.rs | setup
	$(CARGO) build --release --locked --target $(TARGET) --example $(@F)
	@touch $@

$(PROFILED)mygrpcadapter: $(SOURCES) | setup
	$(CARGO) build --profile profiling --locked --target $(TARGET)
	@touch $@

$(PROFILED)examples/floor $(PROFILED)examples/stages: $(PROFILED)examples/%: $(SOURCES) examples/%.rs | setup
	$(CARGO) build --profile profiling --locked --target $(TARGET) --example $(@F)
	@touch $@

.PHONY: bench
bench: build $(FLOOR) $(SPAWN) $(STAGES) ## load, stages, memory, start and idling (BENCH=--quick)
	@./benches/run $(BENCH) $(BINARY) $(FLOOR) $(SPAWN) $(STAGES)

# The figures of record, and the README has to say the same: `make test` looks.
.PHONY: results
results: build $(FLOOR) $(SPAWN) $(STAGES) ## take the figures anew into benches/RESULTS.md (BENCH=--quick)
	@./benches/run --markdown $(BENCH) $(BINARY) $(FLOOR) $(SPAWN) $(STAGES) >$(RELEASE)RESULTS.md
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" tests/image/size --markdown $(BINARY) >>$(RELEASE)RESULTS.md
	@cp $(RELEASE)RESULTS.md benches/RESULTS.md

.PHONY: instructions
instructions: $(PROFILED)mygrpcadapter $(PROFILED)examples/floor $(PROFILED)examples/stages ## instructions per request, by callgrind
	@./benches/instructions $(BENCH) $(wordlist 1,2,$^) --stages $(lastword $^)

.PHONY: where
where: BODY ?= metric-001
where: $(PROFILED)mygrpcadapter ## where the instructions of a BODY (metric-001) go: functions, crates, files
	@./benches/instructions --top $(BODY) $^

.PHONY: instructions-check
instructions-check: $(PROFILED)mygrpcadapter ## fail where .ci/instructions is exceeded
	@./benches/instructions --check .ci/instructions $^
