# --- Kubernetes ------------------------------------------------------------

.PHONY: manifests
manifests: | setup ## regenerate what manifests/ has from proto/ and its own variants
	CARGO='$(CARGO)' TARGET='$(TARGET)' ./manifests/generate

.PHONY: manifests-check
manifests-check: | setup ## schemas, references, descriptors, and that nothing is stale
	CARGO='$(CARGO)' TARGET='$(TARGET)' ./tests/manifests/check
