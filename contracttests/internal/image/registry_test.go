package image

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestRegistry pulls the image.
func TestRegistry(t *testing.T) {
	content, err := Layer("file", []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	registry, err := NewRegistry("moat/x", "latest", Image{Arch: "amd64", Layers: [][]byte{content}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry)
	defer server.Close()
	get := func(path string, want int) []byte {
		t.Helper()
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != want {
			t.Fatalf("%s: %s, %v: %s", path, response.Status, err, body)
		}
		if digest := response.Header.Get("Docker-Content-Digest"); want == http.StatusOK && path != "/v2/" && digest != fmt.Sprintf("sha256:%x", sha256.Sum256(body)) {
			t.Errorf("%s has the digest %s", path, digest)
		}
		return body
	}
	get("/v2/", http.StatusOK)
	var manifest struct {
		MediaType string
		Config    descriptor
		Layers    []descriptor
	}
	if err := json.Unmarshal(get("/v2/moat/x/manifests/latest", http.StatusOK), &manifest); err != nil {
		t.Fatal(err)
	}
	if manifest.MediaType != manifestType || len(manifest.Layers) != 1 {
		t.Fatalf("the manifest is %+v", manifest)
	}
	get("/v2/moat/x/manifests/"+registry.manifest, http.StatusOK)
	get("/v2/moat/x/blobs/"+manifest.Config.Digest, http.StatusOK)
	unpacking, err := gzip.NewReader(bytes.NewReader(get("/v2/moat/x/blobs/"+manifest.Layers[0].Digest, http.StatusOK)))
	if err != nil {
		t.Fatal(err)
	}
	if pulled, err := io.ReadAll(unpacking); !bytes.Equal(pulled, content) || err != nil {
		t.Errorf("the layer has %d bytes, want %d: %v", len(pulled), len(content), err)
	}
	for _, path := range []string{"/v2/moat/x/manifests/other", "/v2/moat/missing/manifests/latest", "/v2/moat/x/blobs/latest", "/"} {
		get(path, http.StatusNotFound)
	}
}
