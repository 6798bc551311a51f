package services

import (
	"context"
	"errors"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// NewSidecarManager returns a sidecar manager of rt's, made of its other methods. It
// needs an [optional.Inspector].
func NewSidecarManager(rt core.Runtime) core.SidecarManager { return sidecars{rt} }

type sidecars struct{ rt core.Runtime }

func (s sidecars) StartSidecar(ctx context.Context, cfg core.SidecarConfig) (string, error) {
	if err := cfg.Validate(); err != nil {
		return "", err
	}
	return startNew(ctx, s.rt, cfg.Container())
}

// startNew creates and starts a container, or leaves nothing behind.
func startNew(ctx context.Context, rt core.Lifecycle, cfg core.Config) (string, error) {
	id, err := rt.CreateContainer(ctx, cfg)
	if err != nil {
		return "", err
	}
	if err = rt.StartContainer(ctx, id); err == nil {
		return id, nil
	}
	// What ended the start may have been ctx: the removal has to go on, for as long as
	// one may wait for a call that was cancelled. What is left has Moat's labels.
	ctx, cancel := withGrace(ctx)
	defer cancel()
	return "", errors.Join(err, rt.RemoveContainer(ctx, id))
}

// grace is how long a call may go on, to tidy up, when its context has ended.
const grace = 500 * time.Millisecond

// withGrace returns a context that ends a little after ctx does.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	graced, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return graced, func() { stop(); cancel() }
}

func (s sidecars) InspectContainer(ctx context.Context, containerID string) (core.InspectResponse, error) {
	inspector, ok := core.As[optional.Inspector](s.rt)
	if !ok {
		return core.InspectResponse{}, &core.Error{Op: "inspect container", Runtime: s.rt.Type(), Object: containerID, Class: core.ErrUnsupported}
	}
	details, err := inspector.Inspect(ctx, containerID)
	if err != nil {
		return core.InspectResponse{}, err
	}
	return core.InspectResponse{State: &details.State}, nil
}
