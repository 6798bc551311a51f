package core

import "context"

// BuildManager handles image building operations.
// Returned by Runtime.BuildManager - nil if not supported.
type BuildManager interface {
	// BuildImage builds an image from a Dockerfile's content and tags it.
	BuildImage(ctx context.Context, dockerfile string, tag string, opts BuildOptions) error

	// ImageExists checks if an image with the given tag exists locally.
	ImageExists(ctx context.Context, tag string) (bool, error)

	// GetImageHomeDir returns the home directory configured in an image, and
	// "/root" if detection fails or no home is configured. It never pulls.
	GetImageHomeDir(ctx context.Context, imageName string) string
}

// BuildOptions configures image building.
type BuildOptions struct {
	// DNS servers to use during build. If empty, defaults to [DefaultDNS].
	DNS []string

	// ContextFiles are additional files to write into the build context directory.
	// Keys are relative paths that stay inside it, values are file contents.
	ContextFiles map[string][]byte

	// NoCache disables build cache, forcing a fresh build of all layers.
	NoCache bool
}
