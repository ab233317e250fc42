# --- tests with a real Envoy -----------------------------------------------

ENVOY ?=

.PHONY: envoy-test
envoy-test: build ## test the adapter behind a real Envoy from PyPI (ENVOY=--quick)
	@./checks/envoy/check $(ENVOY) '$(BINARY)'
