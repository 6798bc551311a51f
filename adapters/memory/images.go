package memory

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing/fstest"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// The built-in images. Both know the users root and tester (1000:1000).
const (
	// BaseImage has a shell as its command, and root as its user.
	BaseImage = "moat/test-base:latest"

	// ConfigImage has an entrypoint that sets ENTRYPOINT_RAN=yes and runs its
	// arguments, FROM_IMAGE=yes, the user tester in /home/tester, and a volume at /data.
	ConfigImage = "moat/test-config:latest"
)

// Image is what containers are made of: the built-in commands and users, and what it
// sets.
type Image struct {
	Ref        string // such as "example/tool:1"; without a tag it is latest
	Entrypoint []string
	Cmd        []string // empty: a shell
	Env        []string // KEY=value
	User       string   // empty: root
	WorkingDir string   // empty: /
	Volumes    []string // folders to make

	// Files lies over the built-in files; nil: nothing does. A shell script is a
	// program when its mode says that it is executable.
	Files fs.FS
}

type image struct {
	Image
	id      string
	size    int64
	created time.Time
	labels  map[string]string
	whole   bool // Files is all that it has, without the built-in files

	programs map[string]program // by the names of their files in /bin
}

// unpack fills a file system.
func (i *image) unpack(tree *filesystem) error {
	if !i.whole {
		for name, content := range i.builtinFiles() {
			mode := fs.FileMode(0o644)
			if strings.HasPrefix(name, "/bin/") {
				mode = 0o755
			}
			if err := tree.write(name, []byte(content), mode); err != nil {
				return err
			}
		}
		for _, folder := range []string{"/tmp", "/root", "/home/tester"} {
			if err := tree.mkdirAll(folder); err != nil {
				return err
			}
		}
	}
	if i.Files == nil {
		return nil
	}
	return tree.unpack(i.Files, ".", "/")
}

func builtinImages() []Image {
	return []Image{
		{Ref: BaseImage},
		{
			Ref:        ConfigImage,
			Entrypoint: []string{"/entry.sh"},
			Env:        []string{"FROM_IMAGE=yes"},
			User:       "tester",
			WorkingDir: "/home/tester",
			Volumes:    []string{"/data"},
			Files: fstest.MapFS{
				"entry.sh": {Mode: 0o755, Data: []byte("#!/bin/sh\nexport ENTRYPOINT_RAN=yes\nexec \"$@\"\n")},
			},
		},
	}
}

func imagesByRef(list []Image, programs map[string]program) map[string]*image {
	images := map[string]*image{}
	for _, spec := range list {
		spec.Ref = normalRef(spec.Ref)
		if len(spec.Cmd) == 0 {
			spec.Cmd = []string{"sh"}
		}
		sum := sha256.Sum256([]byte(spec.Ref))
		known := &image{Image: spec, id: "sha256:" + hex.EncodeToString(sum[:]), created: time.Now(), programs: programs}
		known.size = sizeOf(known)
		images[spec.Ref] = known
	}
	return images
}

// sizeOf counts the built-in files too. What cannot be read fails the creation of
// containers, where it can be told.
func sizeOf(i *image) (size int64) {
	if !i.whole {
		for _, content := range i.builtinFiles() {
			size += int64(len(content))
		}
	}
	if i.Files == nil {
		return size
	}
	_ = fs.WalkDir(i.Files, ".", func(_ string, entry fs.DirEntry, err error) error {
		if err == nil {
			if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
				size += info.Size()
			}
		}
		return nil
	})
	return size
}

// normalRef adds the tag that a reference leaves out.
func normalRef(ref string) string {
	if name := ref[strings.LastIndex(ref, "/")+1:]; strings.ContainsAny(name, ":@") {
		return ref
	}
	return ref + ":latest"
}

// ListImages returns the images whose tag begins with [core.ImagePrefix].
func (r *Runtime) ListImages(ctx context.Context) ([]core.ImageInfo, error) {
	if err := r.check(ctx, "list images", ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []core.ImageInfo{}
	for ref, image := range r.images {
		if strings.HasPrefix(ref, core.ImagePrefix) {
			list = append(list, core.ImageInfo{ID: image.id, Tag: ref, Size: image.size, Created: image.created})
		}
	}
	slices.SortFunc(list, func(a, b core.ImageInfo) int { return cmp.Compare(a.Tag, b.Tag) })
	return list, nil
}

// RemoveImage removes an image that no container uses.
func (r *Runtime) RemoveImage(ctx context.Context, id string) error {
	const op = "remove image"
	if err := r.check(ctx, op, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref, image := range r.images {
		if image.id != id && ref != normalRef(id) {
			continue
		}
		if slices.ContainsFunc(r.containers, func(c *container) bool { return c.image == image }) {
			return failure(op, id, core.ErrInUse, errors.New("a container is made of it; remove that first"))
		}
		delete(r.images, ref)
	}
	return nil
}

// PullImage takes an image from [Options.Registry].
func (r *Runtime) PullImage(ctx context.Context, ref string, sink optional.PullSink) error {
	const op = "pull image"
	if err := r.check(ctx, op, ref); err != nil {
		return err
	}
	_, err := r.pull(op, ref, sink)
	return err
}

// pull takes an image from the registry, and tells sink of it; nil discards.
func (r *Runtime) pull(op, ref string, sink optional.PullSink) (*image, error) {
	tagged := normalRef(ref)
	if r.unreachable[tagged] {
		return nil, failure(op, ref, core.ErrUnavailable, errors.New("the image's registry does not answer"))
	}
	found, ok := r.registry[tagged]
	if !ok {
		return nil, failure(op, ref, core.ErrNotFound, errors.New("the registry has no such image"))
	}
	r.mu.Lock()
	r.images[tagged] = found
	r.mu.Unlock()
	if sink == nil {
		return found, nil
	}
	layer := found.id[len("sha256:"):][:12]
	for _, step := range []optional.PullProgress{
		{Status: "Pulling"},
		{Layer: layer, Status: "Downloading", Total: found.size},
		{Layer: layer, Status: "Pull complete", Current: found.size, Total: found.size},
		{Status: "Downloaded"},
	} {
		step.Image = ref
		sink(step)
	}
	return found, nil
}

// present returns an image, or nil where a pull would be needed.
func (r *Runtime) present(ref string) *image {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.images[normalRef(ref)]
}

// imageFor returns the image of a configuration, pulled as that says.
func (r *Runtime) imageFor(ctx context.Context, op string, cfg core.Config) (*image, error) {
	present := r.present(cfg.Image)
	switch {
	case cfg.Pull == core.PullAlways, present == nil && cfg.Pull != core.PullNever:
		return r.pull(op, cfg.Image, optional.PullProgressOf(ctx))
	case present == nil:
		return nil, failure(op, cfg.Image, core.ErrNotFound, errors.New("there is no such image, and it may not be pulled"))
	}
	return present, nil
}
