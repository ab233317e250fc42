# --- the container image ---------------------------------------------------

DOCKER             ?= docker
# The account and the registry to push to.
DOCKERHUB_USERNAME ?=
REGISTRY           ?= docker.io
# The builder stage's base image; the Dockerfile's default unless given.
BUILDER            ?=
# linux/amd64 or linux/arm64; the engine's own unless given.
PLATFORM           ?=
# The network of the build: `host` where the default one reaches nothing.
NETWORK            ?= default
# 1: docker-push moves `latest` too.
LATEST             ?=

VERSION   = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# The commit as `--version` says it; untracked files can get into an image, so
# they count as dirt here.
REVISION  = $(or $(shell git rev-parse --short=12 HEAD 2>/dev/null),unknown)$(DIRTY)
DIRTY     = $(if $(shell git status --porcelain 2>/dev/null),-dirty)
TAG      ?= $(VERSION)$(DIRTY)
EPOCH     = $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
# Where the source is, without a name or password in it.
SOURCE    = $(or $(shell git remote get-url origin 2>/dev/null | sed 's|//[^/@]*@|//|'),unknown)
HOST      = $(or $(shell $(DOCKER) version --format '{{.Server.Os}}/{{.Server.Arch}}' 2>/dev/null),linux/amd64)
REPOSITORY = $(if $(DOCKERHUB_USERNAME),$(REGISTRY)/$(DOCKERHUB_USERNAME)/)mygrpcadapter
IMAGE     = $(REPOSITORY):$(TAG)

.PHONY: image
image: docker-build ## the container image

.PHONY: docker-build
docker-build: ## the same, by the name the articles use
	$(DOCKER) build --network $(NETWORK) --tag $(IMAGE) \
	    --build-arg REVISION=$(REVISION) --build-arg VERSION=$(VERSION) \
	    --build-arg SOURCE=$(SOURCE) --build-arg SOURCE_DATE_EPOCH=$(EPOCH) \
	    --build-arg HOST=$(HOST) $(if $(BUILDER),--build-arg BUILDER=$(BUILDER)) \
	    $(if $(PLATFORM),--platform $(PLATFORM) --build-arg TARGETARCH=$(notdir $(PLATFORM))) .

.PHONY: docker-push
docker-push: ## build and push; DOCKERHUB_USERNAME names the account
	@$(if $(DOCKERHUB_USERNAME),,$(error docker-push: set DOCKERHUB_USERNAME, the account to push to))
	@$(MAKE) --no-print-directory docker-build
	$(DOCKER) push $(IMAGE)
ifeq ($(LATEST),1)
	$(DOCKER) tag $(IMAGE) $(REPOSITORY):latest
	$(DOCKER) push $(REPOSITORY):latest
endif

.PHONY: image-name
image-name: ## print the image's name
	@echo $(IMAGE)

.PHONY: image-test
image-test: ## what the image must do, on a container engine
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" tests/image/test

.PHONY: size
size: build ## sizes of binary, image and crates, against .ci/budget
	@$(CARGO) build --quiet --profile profiling --locked --target $(TARGET)
	@DOCKER="$(DOCKER)" BUILDER="$(BUILDER)" tests/image/size $(BINARY) $(PROFILED)

PROFILED = $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/profiling/mygrpcadapter
