# --- Kubernetes ------------------------------------------------------------

.PHONY: manifests
manifests: | setup ## generate manifests/ from proto/ and the variants
	CARGO='$(CARGO)' TARGET='$(TARGET)' ./manifests/generate

# The plain files have a placeholder for the image, which the one pushed replaces.
VARIANT ?= metric
VARIANTS = $(patsubst manifests/mygrpcadapter-%.yaml,%,$(wildcard manifests/mygrpcadapter-*.yaml))

.PHONY: render
render: ## print a VARIANT (metric) with the image of docker-push, for `kubectl apply -f -`
	@$(if $(DOCKERHUB_USERNAME),,$(error render: set DOCKERHUB_USERNAME, the account that has the image))
	@$(if $(filter $(VARIANT),$(VARIANTS)),,$(error render: no variant $(VARIANT); there are: $(sort $(VARIANTS))))
	@sed -E 's|docker.io/USERNAME/mygrpcadapter:.*-tls$$|$(IMAGE:-tls=)-tls|; t; s|docker.io/USERNAME/mygrpcadapter:.*|$(IMAGE:-tls=)|' \
	    manifests/mygrpcadapter-$(VARIANT).yaml

.PHONY: manifests-check
manifests-check: | setup ## check schemas, references and descriptors, and that nothing generated is stale
	CARGO='$(CARGO)' TARGET='$(TARGET)' ./checks/manifests/check
