package driver

import (
	"context"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// Driver is what differs from engine to engine. [New] makes a [core.Runtime] of it.
//
// Its methods get options that core's checks accept, and return the engine's raw errors,
// which Classify explains. They return when ctx ends, and are safe for concurrent use.
// Where nothing else is said, a method owes what core says of the runtime's method of
// that name.
type Driver interface {
	// Capabilities says what the engine can do. Settings that need more are refused before
	// Create gets them.
	Capabilities() optional.Capabilities

	// Classify fills in the Class of a failure, and where they are known its Field and
	// Remedy. Err has what another method returned, and may be replaced.
	Classify(failure *core.Error)

	Ping(ctx context.Context) error

	// Create makes a container of a valid configuration, without starting it.
	Create(ctx context.Context, cfg core.Config) (id string, err error)

	// Start may be called for a container that runs.
	Start(ctx context.Context, id string) error

	// Stop waits for timeout before it kills, and with a negative one for as long as the
	// container's configuration says.
	Stop(ctx context.Context, id string, timeout time.Duration) error

	// Signal sends a signal from 1 to 64.
	Signal(ctx context.Context, id string, signal int) error

	Wait(ctx context.Context, id string) (int64, error)

	// Remove kills a container if it runs. One that is missing may be a failure.
	Remove(ctx context.Context, id string) error

	Inspect(ctx context.Context, id string) (optional.Details, error)

	// List returns containers in any order, at least those that are Moat's.
	List(ctx context.Context) ([]core.Info, error)

	// Logs copies a container's output to Stdout and Stderr, which are not nil, in the
	// order of its arrival where they are the same writer. It returns a writer's error.
	Logs(ctx context.Context, id string, opts optional.LogOptions) error

	// Images returns images in any order, with a row for each tag.
	Images(ctx context.Context) ([]core.ImageInfo, error)

	// RemoveImage removes an image. One that is missing may be a failure.
	RemoveImage(ctx context.Context, id string) error

	// Close releases what the driver has. It is called once.
	Close() error
}
