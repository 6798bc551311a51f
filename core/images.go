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
