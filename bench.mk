# Figures: what the adapter costs, on this machine and in instructions.

RELEASE  := $(dir $(BINARY))
PROFILED := $(RELEASE:release/=profiling/)
FLOOR    := $(RELEASE)examples/floor
SPAWN    := $(RELEASE)examples/spawn
BENCH    ?=

# Each as cargo would make it alone: asked for together, they share features.
$(FLOOR) $(SPAWN): $(SOURCES) examples/floor.rs examples/spawn.rs | setup
	$(CARGO) build --release --locked --target $(TARGET) --example $(@F)
	@touch $@

$(PROFILED)mygrpcadapter: $(SOURCES) | setup
	$(CARGO) build --profile profiling --locked --target $(TARGET)
	@touch $@

$(PROFILED)examples/floor: $(SOURCES) examples/floor.rs | setup
	$(CARGO) build --profile profiling --locked --target $(TARGET) --example floor
	@touch $@

.PHONY: bench
bench: build $(FLOOR) $(SPAWN) ## load, memory, start and idling, beside the floor (BENCH=--quick)
	@./benches/run $(BENCH) $(BINARY) $(FLOOR) $(SPAWN)

# The figures of record, and the README has to say the same: `make test` looks.
.PHONY: results
results: build $(FLOOR) $(SPAWN) ## take the figures anew into benches/RESULTS.md (BENCH=--quick)
	@./benches/run --markdown $(BENCH) $(BINARY) $(FLOOR) $(SPAWN) >$(RELEASE)RESULTS.md
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" tests/image/size --markdown $(BINARY) >>$(RELEASE)RESULTS.md
	@cp $(RELEASE)RESULTS.md benches/RESULTS.md

.PHONY: instructions
instructions: $(PROFILED)mygrpcadapter $(PROFILED)examples/floor ## instructions per request, by callgrind
	@./benches/instructions $(BENCH) $^

.PHONY: instructions-check
instructions-check: $(PROFILED)mygrpcadapter ## fail where .ci/instructions is exceeded
	@./benches/instructions --check .ci/instructions $^
