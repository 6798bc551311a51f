//go:build moat_without_builder

package docker

import (
	"context"
	"errors"

	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moatproject/moat/core"
)

// runBuild refuses: the program was compiled without what builds.
func runBuild(_ context.Context, request build.Request) error {
	return &core.Error{
		Op: "build image", Runtime: core.RuntimeDocker, Object: request.Tag,
		Class: core.ErrUnsupported, Err: errors.New("this program was compiled without BuildKit's client"),
		Remedy: "Compile it without the build tag moat_without_builder",
	}
}
