package optional

import (
	"context"
	"sync"
)

// PullProgress is one step of a pull.
type PullProgress struct {
	Image   string // the reference being pulled
	Layer   string // short ID of the layer; empty for the image as a whole
	Status  string // the engine's words, such as "Downloading"
	Current int64  // bytes done of Total
	Total   int64  // bytes; 0 where unknown
}

// PullSink receives progress, one call at a time, in order. It must not block.
type PullSink func(PullProgress)

type pullSinkKey struct{}

// WithPullProgress returns a context that has a sink. A method of a runtime that pulls an
// image by itself, as CreateContainer may, tells its context's sink of the pull. The sink
// is called once at a time, however many methods have the context. A nil sink discards.
func WithPullProgress(ctx context.Context, sink PullSink) context.Context {
	if sink == nil {
		return context.WithValue(ctx, pullSinkKey{}, PullSink(nil))
	}
	var lock sync.Mutex
	return context.WithValue(ctx, pullSinkKey{}, PullSink(func(step PullProgress) {
		lock.Lock()
		defer lock.Unlock()
		sink(step)
	}))
}

// PullProgressOf returns the sink that a runtime tells of a pull which was not asked for
// by [ImagePuller.PullImage]. It is nil where the context has none.
func PullProgressOf(ctx context.Context) PullSink {
	sink, _ := ctx.Value(pullSinkKey{}).(PullSink)
	return sink
}

// ImagePuller is the optional interface for pulling with progress.
type ImagePuller interface {
	// PullImage pulls an image even where it is present. A nil sink discards.
	//
	//   - RT-83: the image can be run afterwards; progress reached the sink, and that
	//     of a pull by CreateContainer the sink of [WithPullProgress].
	//   - RT-84: an image that the registry does not have: [core.ErrNotFound]; one that it
	//     refuses or a registry out of reach: [core.ErrUnavailable]. An error in the middle
	//     of the stream is an error of the call. Where the registry refuses because of
	//     the login, the error has a [*LoginError].
	PullImage(ctx context.Context, ref string, sink PullSink) error
}
