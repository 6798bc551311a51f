package docker

import (
	"context"
	"io"

	"github.com/moatproject/moat/adapters/docker/internal/message"
)

// LoadImage adds the images of an archive, such as `docker save` writes, to the engine. An
// image that has a name of theirs loses it. An archive that the engine refuses is an error.
func (r *Runtime) LoadImage(ctx context.Context, archive io.Reader) error {
	c, err := r.begin(ctx, 0, "load image", r.options.Host)
	if err != nil {
		return err
	}
	defer c.end()
	response, err := r.engine.ImageLoad(c.ctx, archive)
	if err != nil {
		return c.failed(err)
	}
	defer response.Body.Close()
	return c.failed(message.ReadPull(response.Body, c.object, nil))
}
