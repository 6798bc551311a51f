//go:build !moat_without_builder

package docker

import (
	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moatproject/moat/adapters/docker/internal/builder"
)

// runBuild builds images.
var runBuild build.Run = builder.Run
