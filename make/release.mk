# --- what a release has besides the image ----------------------------------

SBOM = $(OUT)/$(TARGET)/mygrpcadapter-$(VERSION)-$(TARGET).cdx.json

.PHONY: sbom
sbom: setup cyclonedx ## the bill of materials of the binary, CycloneDX
	@mkdir -p '$(OUT)/$(TARGET)'
	@CARGO='$(CARGO)' ./scripts/sbom $(TARGET) >'$(SBOM).new' && mv '$(SBOM).new' '$(SBOM)'
	@echo '$(SBOM)'

.PHONY: cyclonedx
cyclonedx:
	@./scripts/tool cargo-cyclonedx 0.5.9

.PHONY: sbom-check
sbom-check: setup cyclonedx ## it is valid, complete, and the same in every directory
	@python=$$(checks/venv checks/sbom/requirements.txt) && CARGO='$(CARGO)' $$python checks/sbom/check.py $(TARGET)

DIST ?= target/dist

.PHONY: dist
dist: ## what a release has besides the images that docker-push-all pushed
	@DOCKER='$(DOCKER)' VERSION='$(VERSION)' ./scripts/dist '$(DIST)' $(foreach p,$(PLATFORMS),$(IMAGE)-$(notdir $p))
	@ls '$(DIST)'

.PHONY: workflows-check
workflows-check: ## GitHub's schema and zizmor's audits, of .github/workflows
	@python=$$(checks/venv checks/workflows/requirements.txt) && bin=$${python%/*} && \
	    $$bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml && \
	    $$bin/zizmor --offline --no-progress --quiet .github/workflows

.PHONY: docs-check
docs-check: build replay-binary cyclonedx ## run what the docs say can be run; flags, metrics, links and alerts they name
	@CARGO='$(CARGO)' TARGET='$(TARGET)' ./checks/docs/check '$(BINARY)' '$(REPLAY)'
