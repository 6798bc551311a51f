package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/moatproject/moat/adapters/docker/internal/message"
	"github.com/moatproject/moat/core"
	"github.com/opencontainers/go-digest"
)

// programImage is the name of the image of a program alone: another one for each that ever
// was.
func programImage(name string, program []byte) (ref string) {
	sum := sha256.Sum256(program)
	return "moat-" + name + ":" + hex.EncodeToString(sum[:6])
}

// programImageID returns the ID of the image of a program alone, and makes the image where it
// is missing. A loaded archive can give any image this name, so the image has to have this
// content.
func (r *Runtime) programImageID(ctx context.Context, name string, program []byte) (string, error) {
	ref := programImage(name, program)
	if id, known := r.programImages.Load(ref); known {
		return id.(string), nil
	}
	layer, err := programLayer(name, program)
	if err != nil {
		return "", err
	}
	content := digest.FromBytes(layer.Bytes())
	found, err := r.engine.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) || err == nil && !isProgramImage(found, name, content) {
		if err := r.importProgram(ctx, ref, name, layer); err != nil {
			return "", err
		}
		found, err = r.engine.ImageInspect(ctx, ref)
	}
	if err != nil {
		return "", err
	}
	if !isProgramImage(found, name, content) {
		return "", errors.New("the image " + ref + " is another one than was imported")
	}
	r.programImages.Store(ref, found.ID)
	return found.ID, nil
}

// isProgramImage reports whether an image is a program alone, with nothing that could change
// what the program does.
func isProgramImage(found image.InspectResponse, name string, content digest.Digest) bool {
	config := found.Config
	return config != nil && slices.Equal(found.RootFS.Layers, []string{content.String()}) &&
		slices.Equal(config.Entrypoint, []string{"/" + name}) && config.Healthcheck == nil &&
		len(config.Cmd) == 0 && len(config.Env) == 0 && len(config.Volumes) == 0 && config.User == "" && config.WorkingDir == ""
}

// importProgram makes the image of a program. It is kept, being of a few kilobytes, for
// the next container that needs it.
func (r *Runtime) importProgram(ctx context.Context, ref, name string, layer io.Reader) error {
	changes := []string{`ENTRYPOINT ["/` + name + `"]`}
	for key, value := range core.ObjectLabels("", core.RoleAdapter) {
		changes = append(changes, fmt.Sprintf("LABEL %s=%q", key, value))
	}
	source := image.ImportSource{Source: layer, SourceName: "-"}
	body, err := r.engine.ImageImport(ctx, source, ref, image.ImportOptions{
		Changes: changes,
	})
	if err != nil {
		return err
	}
	defer body.Close()
	return message.ReadPull(body, ref, nil)
}

// programLayer is an archive of a program alone.
func programLayer(name string, program []byte) (*bytes.Buffer, error) {
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	header := tar.Header{Name: name, Mode: 0o555, Size: int64(len(program))}
	if err := out.WriteHeader(&header); err != nil {
		return nil, err
	}
	if _, err := out.Write(program); err != nil {
		return nil, err
	}
	return &archive, out.Close()
}
