package docker

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moatproject/moat/adapters/docker/internal/message"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// listTries bounds the attempts to list images while others are removed.
const listTries = 100

// ListImages returns a row for each tag that begins with [core.ImagePrefix].
func (r *Runtime) ListImages(ctx context.Context) ([]core.ImageInfo, error) {
	images, err := ask(ctx, r, "list images", r.options.Host, func(ctx context.Context) (images []image.Summary, err error) {
		for range listTries {
			images, err = r.engine.ImageList(ctx, image.ListOptions{}) // the engine's patterns match only one level of a name
			if err == nil || !r.kind().imageGone(err) {
				break
			}
		}
		return images, err
	})
	if err != nil {
		return nil, err
	}
	infos := []core.ImageInfo{}
	for _, summary := range images {
		for _, tag := range summary.RepoTags {
			if tag = r.kind().familiar(tag); strings.HasPrefix(tag, core.ImagePrefix) {
				infos = append(infos, core.ImageInfo{ID: summary.ID, Tag: tag, Size: summary.Size, Created: time.Unix(summary.Created, 0).UTC()})
			}
		}
	}
	slices.SortFunc(infos, func(a, b core.ImageInfo) int { return cmp.Compare(a.Tag, b.Tag) })
	return infos, nil
}

// RemoveImage removes an image by ID or tag.
func (r *Runtime) RemoveImage(ctx context.Context, id string) error {
	c, err := r.call(ctx, "remove image", id)
	if err != nil {
		return err
	}
	defer c.end()
	// The SDK puts the name into a path, in which "../containers/x" would be another
	// object.
	if _, err := reference.ParseAnyReference(id); err != nil {
		return c.failed(err)
	}
	_, err = r.engine.ImageRemove(c.ctx, id, image.RemoveOptions{PruneChildren: true})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return c.failed(err)
}

// PullImage pulls an image even where it is present.
func (r *Runtime) PullImage(ctx context.Context, ref string, sink optional.PullSink) error {
	c, err := r.begin(ctx, 0, "pull image", ref)
	if err != nil {
		return err
	}
	defer c.end()
	auth, err := r.pullAuth(c, ref)
	if err != nil {
		return c.failed(err)
	}
	body, err := r.engine.ImagePull(c.ctx, ref, image.PullOptions{RegistryAuth: auth})
	if err != nil {
		return c.failed(err)
	}
	defer body.Close()
	return c.failed(message.ReadPull(body, ref, sink))
}

// pullAuth returns the login at an image's registry in the form of the engine's header,
// "" for none.
func (r *Runtime) pullAuth(c *call, ref string) (string, error) {
	name, err := build.RegistryOf(ref)
	if err != nil {
		return "", nil // the engine reports the error
	}
	login, err := r.login(c, name)
	if err != nil || login == (Login{}) {
		return "", err
	}
	return registry.EncodeAuthConfig(login.config())
}
