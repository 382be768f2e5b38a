// Package deps keeps modules in go.mod that rooms under construction are about to import. It goes when they do.
package deps

import (
	_ "github.com/Graylog2/go-gelf/gelf"
	_ "github.com/compose-spec/compose-go/v2/types"
	_ "github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/docker/compose/v5/cmd/compose"
	_ "github.com/docker/compose/v5/pkg/compose"
	_ "github.com/erofs/go-erofs"
	_ "github.com/fluent/fluent-logger-golang/fluent"
	_ "github.com/hashicorp/yamux"
	_ "github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/control"
	_ "github.com/moby/buildkit/frontend/dockerfile/builder"
	_ "github.com/moby/buildkit/solver/bboltcachestorage"
	_ "github.com/moby/buildkit/worker/base"
	_ "github.com/pierrec/lz4/v4"
	_ "github.com/u-root/u-root/pkg/cpio"
)
