# --- the container image ---------------------------------------------------

DOCKER             ?= docker
# The account and the registry to push to.
DOCKERHUB_USERNAME ?=
REGISTRY           ?= docker.io
# The builder stage's base image; the Dockerfile's default unless given.
BUILDER            ?=
# linux/amd64 or linux/arm64; the engine's own unless given.
PLATFORM           ?=
# What docker-push-all pushes.
PLATFORMS          ?= linux/amd64 linux/arm64
# The network of the build: `host` where the default one reaches nothing.
NETWORK            ?= default
# More words for `docker build`, --no-cache or --pull.
BUILD_FLAGS        ?=
# 1: docker-push moves `latest` too.
LATEST             ?=

VERSION   = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# The commit as `--version` says it. What does not get into the image is no dirt;
# untracked files can get into it.
REVISION  = $(or $(shell git rev-parse --short=12 HEAD 2>/dev/null),unknown)$(DIRTY)
DIRTY     = $(if $(shell git status --porcelain -- $(INSIDE) 2>/dev/null),-dirty)
INSIDE    = Dockerfile $(filter-out examples/% tests/%,$(shell sed -n 's/^!//p' .dockerignore))
TAG      ?= $(VERSION)$(DIRTY)
# The image with TLS is another one, by its tag. docker-push-all adds a CPU to it.
SUFFIX    = $(if $(filter 1,$(TLS)),$(if $(findstring -tls,$(TAG)),,-tls))
EPOCH     = $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
# Where the source is, without a name or password in it.
SOURCE    = $(or $(shell git remote get-url origin 2>/dev/null | sed 's|//[^/@]*@|//|'),unknown)
HOST      = $(or $(shell $(DOCKER) version --format '{{.Server.Os}}/{{.Server.Arch}}' 2>/dev/null),linux/amd64)
REPOSITORY = $(if $(DOCKERHUB_USERNAME),$(REGISTRY)/$(DOCKERHUB_USERNAME)/)mygrpcadapter
IMAGE     = $(REPOSITORY):$(TAG)$(SUFFIX)
PUSHED    = $(IMAGE) $(if $(filter 1,$(LATEST)),$(REPOSITORY):latest$(SUFFIX))
# `docker manifest` has to be told of a registry on loopback, `docker push` not.
INSECURE  = $(if $(filter 127.0.0.1:% localhost:%,$(REGISTRY)),--insecure)

# These give the whole image the time of the commit, and so always one digest.
TIMESTAMP = $(if $(filter podman buildah,$(notdir $(firstword $(DOCKER)))),--timestamp $(EPOCH))

# buildx attaches where and when an image was built, which is never the same.
export BUILDX_NO_DEFAULT_ATTESTATIONS ?= 1

# The classic builder can compile for another CPU, but not name it in the image.
CLASSIC   = $(if $(DOCKER_BUILDKIT),$(filter 0,$(DOCKER_BUILDKIT)),$(shell $(DOCKER) buildx version >/dev/null 2>&1 || echo 0))
FOREIGN   = $(if $(CLASSIC),$(filter-out $(HOST),$(PLATFORM)))
PLATFORM_FLAGS = $(if $(FOREIGN),--build-arg TARGETARCH=$(notdir $(PLATFORM)),$(if $(PLATFORM),--platform $(PLATFORM)))
RELABEL   = $(if $(FOREIGN),DOCKER="$(DOCKER)" scripts/engine-relabel $(IMAGE) $(notdir $(PLATFORM)))

.PHONY: image
image: docker-build ## build the container image; TLS=1 for the one with TLS

.PHONY: docker-build
docker-build: ## the same as image, by the name that the articles use
	$(DOCKER) build --network $(NETWORK) --tag $(IMAGE) $(TIMESTAMP) $(BUILD_FLAGS) \
	    --build-arg REVISION=$(REVISION) --build-arg VERSION=$(VERSION) \
	    --build-arg SOURCE=$(SOURCE) --build-arg SOURCE_DATE_EPOCH=$(EPOCH) \
	    --build-arg HOST=$(HOST) $(if $(FEATURES),--build-arg FEATURES=tls) $(if $(BUILDER),--build-arg BUILDER=$(BUILDER)) \
	    $(PLATFORM_FLAGS) .
	$(RELABEL)

.PHONY: docker-push
docker-push: ## build and push; DOCKERHUB_USERNAME names the account
	@$(if $(DOCKERHUB_USERNAME),,$(error docker-push: set DOCKERHUB_USERNAME, the account to push to))
	@$(MAKE) --no-print-directory docker-build
	for name in $(PUSHED); do $(DOCKER) tag $(IMAGE) $$name && $(DOCKER) push $$name || exit; done

# One image each, and a list of them under the one name.
.PHONY: docker-push-all
docker-push-all: ## build and push for all PLATFORMS (amd64 and arm64)
	@for platform in $(PLATFORMS); do $(MAKE) --no-print-directory docker-push \
	    PLATFORM=$$platform TAG=$(TAG)$(SUFFIX)-$${platform#*/} LATEST= || exit; done
	for name in $(PUSHED); do \
	    $(DOCKER) manifest create --amend $(INSECURE) $$name $(foreach p,$(PLATFORMS),$(IMAGE)-$(notdir $p)) && \
	    $(DOCKER) manifest push --purge $(INSECURE) $$name || exit; done

.PHONY: image-name
image-name: ## print the image's name
	@echo $(IMAGE)

.PHONY: image-test
image-test: replay-binary ## test the image on a container engine
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" REPLAY='$(REPLAY)' checks/image/test

.PHONY: image-reproduce
image-reproduce: ## build HEAD in two directories and compare layers and digests
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" checks/image/reproduce
