package gvisor

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// probeRepository is outside core.ImagePrefix, so that lists of images leave it out. The
// image has a few hundred bytes and stays for the next verification.
const probeRepository = "moat-gvisor-probe"

const probePath = "probe"

// archive is an image as `docker load` reads it.
type archive struct {
	tag     string
	content []byte
}

// probeImage returns the probe as an image. Its bytes depend on the architecture
// and on Moat's version alone and its tag on its bytes, so that loading it twice,
// even at once, leaves one image. (An import would leave one untagged each time.)
func probeImage(architecture string) (archive, error) {
	program, err := programs.Read("probe", architecture)
	if err != nil {
		return archive{}, fmt.Errorf("no program to verify gVisor with on %s engines", architecture)
	}
	layer, err := packTar(tarFile{probePath, 0o755, program})
	if err != nil {
		return archive{}, err
	}
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: architecture, OS: "linux"},
		Config: ocispec.ImageConfig{
			User:       "65534:65534",
			Entrypoint: []string{"/" + probePath},
			Labels:     core.ObjectLabels("", core.RoleAdapter),
		},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return archive{}, err
	}
	tag := probeRepository + ":" + digest.FromBytes(config).Encoded()[:12]
	manifest, err := json.Marshal([]manifestEntry{{
		Config: "config.json", RepoTags: []string{tag}, Layers: []string{"layer.tar"},
	}})
	if err != nil {
		return archive{}, err
	}
	content, err := packTar(
		tarFile{"config.json", 0o644, config},
		tarFile{"layer.tar", 0o644, layer},
		tarFile{"manifest.json", 0o644, manifest},
	)
	return archive{tag: tag, content: content}, err
}

// manifestEntry is an image in an archive's manifest.json.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

type tarFile struct {
	name    string
	mode    int64
	content []byte
}

func packTar(files ...tarFile) ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, file := range files {
		header := &tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.content))}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(file.content); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return buffer.Bytes(), err
}
