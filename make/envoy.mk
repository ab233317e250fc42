# --- tests with a real Envoy -----------------------------------------------

ENVOY ?=

# The binary with TLS beside the one without.
.PHONY: build-both
build-both:
	@$(MAKE) --no-print-directory build TLS=1
	@cp '$(BINARY)' '$(BINARY)-tls'
	@$(MAKE) --no-print-directory build

.PHONY: envoy-test
envoy-test: build-both ## test the adapter behind a real Envoy from PyPI (ENVOY=--quick)
	@./checks/envoy/check $(ENVOY) '$(BINARY)' '$(BINARY)-tls'
