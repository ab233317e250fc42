# --- behind a real Envoy ---------------------------------------------------

ENVOY ?=

.PHONY: envoy-test
envoy-test: build ## the adapter behind a real Envoy from PyPI (ENVOY=--quick)
	@./checks/envoy/check $(ENVOY) '$(BINARY)'
