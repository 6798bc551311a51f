package gvisor

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func unpackTar(archive io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for reader := tar.NewReader(archive); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[header.Name], err = io.ReadAll(reader); err != nil {
			return nil, err
		}
	}
}

func TestProbeImage(t *testing.T) {
	tags := map[string]bool{}
	architectures := []string{"amd64", "arm64"}
	for _, architecture := range architectures {
		t.Run(architecture, func(t *testing.T) {
			program, err := programs.Read("probe", architecture)
			if err != nil {
				t.Fatal(err)
			}
			image, err := probeImage(architecture)
			if err != nil {
				t.Fatal(err)
			}
			files, err := unpackTar(bytes.NewReader(image.content))
			if err != nil {
				t.Fatal(err)
			}
			layer, err := unpackTar(bytes.NewReader(files["layer.tar"]))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(layer[probePath], program) {
				t.Error("the layer does not hold the probe")
			}
			var config ocispec.Image
			if err := json.Unmarshal(files["config.json"], &config); err != nil {
				t.Fatal(err)
			}
			if config.Architecture != architecture || config.Config.Labels[core.LabelRole] != core.RoleAdapter {
				t.Errorf("config %+v", config)
			}
			if !slices.Equal(config.RootFS.DiffIDs, []digest.Digest{digest.FromBytes(files["layer.tar"])}) {
				t.Errorf("layers %v", config.RootFS.DiffIDs)
			}
			if strings.HasPrefix(image.tag, core.ImagePrefix) {
				t.Errorf("%s would be listed among the user's images", image.tag)
			}
			again, err := probeImage(architecture)
			if err != nil || again.tag != image.tag || !bytes.Equal(again.content, image.content) {
				t.Errorf("made again it is another: %s and %s, %v", image.tag, again.tag, err)
			}
			tags[image.tag] = true
		})
	}
	if len(tags) != len(architectures) {
		t.Errorf("architectures share a tag: %v", tags)
	}
}
