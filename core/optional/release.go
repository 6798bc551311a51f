package optional

import (
	"context"
)

// Releaser is the optional interface of runtimes that honour [core.Config.Held]: a container's
// program can be held until the services that it needs are ready.
type Releaser interface {
	// ReleaseContainer lets the program of a [core.Config.Held] container begin. StartAttached
	// starts the container, and waits for the release before it reads Stdin. Both calls must
	// use the same Runtime value. A release before the start is remembered: the program then
	// begins at once. Each further start needs a release of its own.
	//
	//   - RT-115: StartAttached that returns before the release, such as at the end of its
	//     ctx, leaves a program that never begins. The container may run or have exited;
	//     the caller removes it. Releasing it is [core.ErrNotRunning].
	//   - RT-116: a container that is not held: [core.ErrInvalidConfig], field Held; missing:
	//     [core.ErrNotFound]; again before StartAttached has returned: nil. StartContainer of one
	//     that is held: [core.ErrInvalidConfig], field Held.
	ReleaseContainer(ctx context.Context, id string) error
}
