package core

import (
	"context"
	"fmt"
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
	//     of the stream is an error of the call. Where the registry refuses because of
	//     the login, the error has a [*LoginError].
	PullImage(ctx context.Context, ref string, sink PullSink) error
}

// LoginError tells why a registry refuses an image. [errors.As] finds it in what pulls
// and builds return. Neither it nor Err contains a password or a token.
type LoginError struct {
	Registry string // as names of images have it, such as "docker.io" or "example.org:5000"
	Problem  LoginProblem
	Err      error // the registry's reason, in the engine's words
}

// LoginProblem is what is wrong with a login.
type LoginProblem string

// The problems that a login can have.
const (
	LoginMissing  LoginProblem = "missing"  // the registry wants one, or has no such image, and none is known
	LoginRejected LoginProblem = "rejected" // the registry knows no such user, password or token
	LoginExpired  LoginProblem = "expired"  // its password or token was valid until some time ago
	LoginDenied   LoginProblem = "denied"   // it may not read the image, or there is no such image
)

// Error returns the problem and the reason.
func (e *LoginError) Error() string {
	problem := map[LoginProblem]string{
		LoginMissing:  "the registry %s refuses the image without a login",
		LoginRejected: "the registry %s rejects the login",
		LoginExpired:  "the login at the registry %s has expired",
		LoginDenied:   "the login at the registry %s gives no access to the image",
	}[e.Problem]
	return fmt.Sprintf(problem+": %v", e.Registry, e.Err)
}

// Unwrap makes [errors.Is] see the reason.
func (e *LoginError) Unwrap() error { return e.Err }
