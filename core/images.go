package core

import (
	"context"
	"time"
)

// ImagePrefix begins the repository of every image that Moat builds.
const ImagePrefix = "moat/"

// Images lists and removes images.
type Images interface {
	// ListImages returns the images with a tag that begins with [ImagePrefix], one
	// row for each such tag, sorted by tag.
	//
	//   - RT-80: full ID, tag, size and creation time.
	ListImages(ctx context.Context) ([]ImageInfo, error)

	// RemoveImage removes an image by ID or tag.
	//
	//   - RT-81: missing: nil.
	//   - RT-82: used by a container: [ErrInUse].
	RemoveImage(ctx context.Context, id string) error
}

// ImageInfo contains information about an image.
type ImageInfo struct {
	ID      string    `json:"id"`
	Tag     string    `json:"tag"`
	Size    int64     `json:"size"` // bytes
	Created time.Time `json:"created"`
}

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

// ImagePuller is the optional port for pulling with progress.
type ImagePuller interface {
	// PullImage pulls an image even where it is present. A nil sink discards.
	//
	//   - RT-83: the image can be run afterwards; progress reached the sink.
	//   - RT-84: an image that the registry does not have: [ErrNotFound]; one that it
	//     refuses or a registry out of reach: [ErrUnavailable]. An error in the middle
	//     of the stream is an error of the call.
	PullImage(ctx context.Context, ref string, sink PullSink) error
}
