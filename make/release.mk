# --- releases and docs ------------------------------------------------------

SBOM = $(OUT)/$(TARGET)/mygrpcadapter-$(VERSION)-$(TARGET)$(if $(FEATURES),-tls).cdx.json

.PHONY: sbom
sbom: setup cyclonedx ## write the bill of materials of the binary (CycloneDX)
	@mkdir -p '$(OUT)/$(TARGET)'
	@CARGO='$(CARGO)' ./checks/sbom/generate $(TARGET) $(FEATURES) >'$(SBOM).new' && mv '$(SBOM).new' '$(SBOM)'
	@echo '$(SBOM)'

.PHONY: cyclonedx
cyclonedx:
	@./scripts/tool cargo-cyclonedx 0.5.9

.PHONY: sbom-check
sbom-check: setup cyclonedx ## check that the bill of materials is valid, complete and reproducible
	@python=$$(checks/venv checks/sbom/requirements.txt) && CARGO='$(CARGO)' $$python checks/sbom/check.py $(TARGET)

DIST ?= target/dist

.PHONY: dist
dist: ## collect the binaries, bills of materials and checksums of a release; TLS=1: both kinds
	@DOCKER='$(DOCKER)' VERSION='$(VERSION)' ./scripts/dist '$(DIST)' \
	    $(foreach kind,$(TAG) $(if $(FEATURES),$(TAG)-tls),$(foreach p,$(PLATFORMS),$(REPOSITORY):$(kind)-$(notdir $p)))
	@ls '$(DIST)'

.PHONY: workflows-check
workflows-check: ## lint .github/workflows
	@python=$$(checks/venv checks/workflows/requirements.txt) && bin=$${python%/*} && \
	    $$bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml && \
	    $$bin/zizmor --offline --no-progress --quiet .github/workflows

.PHONY: docs-check
docs-check: build-both replay-binary cyclonedx ## run the commands in the docs; check their flags, metrics, links and alerts
	@./checks/bench/figures --check '$(BINARY)'
	@CARGO='$(CARGO)' TARGET='$(TARGET)' ./checks/docs/check '$(BINARY)' '$(BINARY)-tls' '$(REPLAY)'
