package image

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const manifestType = "application/vnd.docker.distribution.manifest.v2+json"

// Registry serves one image, by the name and tag that it is asked for, and nothing else: a
// registry that can be pulled from.
type Registry struct {
	name, tag string
	blobs     map[string][]byte // by digest
	manifest  string            // its digest
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

// NewRegistry returns a registry that has an image as NAME:TAG.
func NewRegistry(name, tag string, i Image) (*Registry, error) {
	r := &Registry{name: name, tag: tag, blobs: map[string][]byte{}}
	config, err := i.config()
	if err != nil {
		return nil, err
	}
	layers := []descriptor{}
	for _, layer := range i.Layers {
		var compressed bytes.Buffer
		// Fast: the layers go to this machine.
		writer, err := gzip.NewWriterLevel(&compressed, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		if _, err := writer.Write(layer); err != nil {
			return nil, err
		}
		if err := writer.Close(); err != nil {
			return nil, err
		}
		layers = append(layers, r.add("application/vnd.docker.image.rootfs.diff.tar.gzip", compressed.Bytes()))
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": r.add("application/vnd.docker.container.image.v1+json", config), "layers": layers,
	})
	r.manifest = r.add(manifestType, manifest).Digest
	return r, err
}

func (r *Registry) add(mediaType string, content []byte) descriptor {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	r.blobs[digest] = content
	return descriptor{mediaType, digest, len(content)}
}

// ServeHTTP answers the requests of a pull.
func (r *Registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	path := strings.TrimPrefix(request.URL.Path, "/v2/")
	if path == "" {
		return
	}
	digest, isBlob := strings.CutPrefix(path, r.name+"/blobs/")
	if reference, isManifest := strings.CutPrefix(path, r.name+"/manifests/"); isManifest {
		if digest = reference; reference == r.tag {
			digest = r.manifest
		}
	}
	content, found := r.blobs[digest]
	if !found {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if !isBlob {
		w.Header().Set("Content-Type", manifestType)
	}
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, request, "", time.Time{}, bytes.NewReader(content))
}
