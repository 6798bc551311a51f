// Package build says what a build is told and how it fails. Package builder builds. Its
// libraries are most of what a program with it starts, so a program may leave it out.
package build

import (
	"context"
	"net"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

// Run builds an image. Its failures are [*StepError], [*ContextError], and those
// of the engine.
type Run func(ctx context.Context, request Request) error

// Request is one build.
type Request struct {
	Dockerfile string
	Tag        string // with its registry and version
	Options    core.BuildOptions
	BuildKit   string // address of the BuildKit that builds; empty: the engine's
	Classic    bool   // the engine builds without its BuildKit
	Engine     Engine
}

// Engine is what a build needs of the engine.
type Engine struct {
	client.APIClient
	DialBuildKit func(context.Context) (net.Conn, error) // connects to the BuildKit within it
	ImageMissing func(ctx context.Context, image string) bool
	LinksInside  bool // its classic builder takes no symbolic link that leads out of the context

	// Login returns the login at a registry, the zero value for none. A failure fails the
	// build, so that the builder need not be told of it. nil: there are no logins.
	Login func(registry string) (registry.AuthConfig, error)
}

// StepError is what failed at a step. Its text is the builder's without the words that say
// how far it had come.
type StepError struct {
	Err    error
	Text   string
	Name   string // the builder's name of the step; empty: unknown
	Step   string // the step as the Dockerfile has it, else its name
	Line   int    // of the Dockerfile, from 1; 0: unknown
	Output string // the end of what the step has written
}

func (f *StepError) Error() string { return f.Text }
func (f *StepError) Unwrap() error { return f.Err }

// ContextError reports a context that cannot be read or built.
type ContextError struct {
	Class  error // the [core.Error]'s
	Err    error
	Remedy string
}

func (e *ContextError) Error() string { return e.Err.Error() }
func (e *ContextError) Unwrap() error { return e.Err }

// Hub is the registry of images whose names have none.
const Hub = "docker.io"

// RegistryKey returns the name that engines and Docker's client keep a registry's login
// under.
func RegistryKey(name string) string {
	if name == Hub {
		return "https://index.docker.io/v1/"
	}
	return name
}

// RegistryOf returns the registry of an image's name, such as "docker.io".
func RegistryOf(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	return reference.Domain(named), nil
}
