package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/docker/docker/api/types/image"
	"github.com/moatproject/moat/adapters/docker/internal/message"
	"github.com/moatproject/moat/core"
)

// programImage is the image of a program alone: another one for each that ever was.
func programImage(name string, program []byte) (ref string) {
	sum := sha256.Sum256(program)
	return "moat-" + name + ":" + hex.EncodeToString(sum[:6])
}

// importProgram makes the image of a program. It is kept, being of a few kilobytes, for
// the next container that needs it.
func (r *Runtime) importProgram(ctx context.Context, ref, name string, program []byte) error {
	layer, err := programLayer(name, program)
	if err != nil {
		return err
	}
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
