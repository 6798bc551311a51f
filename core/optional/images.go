package optional

import (
	"context"
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

// ImagePuller is the optional interface for pulling with progress.
type ImagePuller interface {
	// PullImage pulls an image even where it is present. A nil sink discards.
	//
	//   - RT-83: the image can be run afterwards; progress reached the sink.
	//   - RT-84: an image that the registry does not have: [core.ErrNotFound]; one that it
	//     refuses or a registry out of reach: [core.ErrUnavailable]. An error in the middle
	//     of the stream is an error of the call. Where the registry refuses because of
	//     the login, the error has a [*LoginError].
	PullImage(ctx context.Context, ref string, sink PullSink) error
}
