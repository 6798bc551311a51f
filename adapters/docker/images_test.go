package docker

import (
	"errors"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func TestListImages(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /images/json", answer(http.StatusOK, []image.Summary{
		{ID: "sha256:1", RepoTags: []string{"moat/b:1", "alpine:3", "moat/a:latest"}, Size: 7, Created: 1000},
		{ID: "sha256:2", RepoTags: []string{"moat/deeper/name:1"}, Size: 8, Created: 2000},
		{ID: "sha256:3", RepoTags: []string{"example.org/moat/c:1", "moats/d:1", "<none>:<none>"}},
		{ID: "sha256:4"},
	}))
	got, err := engine.runtime(t).ListImages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	older, newer := time.Unix(1000, 0).UTC(), time.Unix(2000, 0).UTC()
	want := []core.ImageInfo{
		{ID: "sha256:1", Tag: "moat/a:latest", Size: 7, Created: older},
		{ID: "sha256:1", Tag: "moat/b:1", Size: 7, Created: older},
		{ID: "sha256:2", Tag: "moat/deeper/name:1", Size: 8, Created: newer},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRemoveImageInUse(t *testing.T) {
	engine := startFake(t)
	engine.on("DELETE /images/{name...}", failure(http.StatusConflict,
		`conflict: unable to remove repository reference "image" (must force) - container ef461a868309 is using its referenced image 56a5ad38d6ef`))
	if err := engine.runtime(t).RemoveImage(t.Context(), "image"); !errors.Is(err, core.ErrInUse) {
		t.Errorf("got %v", err)
	}
}

func TestPullProgress(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /images/create", raw(`{"status":"Pulling from moat/image","id":"latest"}
{"status":"Downloading","progressDetail":{"current":138,"total":1380},"progress":"[=>   ]","id":"62f772284a9c"}
{"status":"Download complete","progressDetail":{"hidecounts":true},"id":"62f772284a9c"}
{"status":"Digest: sha256:61f455cb"}
`))
	var got []optional.PullProgress
	if err := engine.runtime(t).PullImage(t.Context(), "image", func(p optional.PullProgress) { got = append(got, p) }); err != nil {
		t.Fatal(err)
	}
	want := []optional.PullProgress{
		{Image: "image", Status: "Pulling from moat/image"},
		{Image: "image", Layer: "62f772284a9c", Status: "Downloading", Current: 138, Total: 1380},
		{Image: "image", Layer: "62f772284a9c", Status: "Download complete"},
		{Image: "image", Status: "Digest: sha256:61f455cb"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestPullsThatFail(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		class  error
	}{
		"a line cut short":         {raw(`{"status":"Downloading"}{"sta`), core.ErrUnavailable},
		"a connection cut short":   {cut(raw(`{"status":"Downloading"}`)), core.ErrUnavailable},
		"an error of old engines":  {raw(`{"errorDetail":{"message":"unauthorized: no"},"error":"unauthorized: no"}`), core.ErrUnavailable},
		"an error of new engines":  {raw(`{"errorDetail":{"message":"unauthorized: no"}}`), core.ErrUnavailable},
		"an error of very old":     {raw(`{"error":"unauthorized: no"}`), core.ErrUnavailable},
		"an error without a class": {raw(`{"errorDetail":{"message":"no space left on device"}}`), errAny},
		"no JSON":                  {raw(`<html>`), errAny},
	} {
		engine.on("POST /images/create", test.answer)
		err := r.PullImage(t.Context(), "image", nil)
		if !matches(err, test.class) || !errors.As(err, new(*core.Error)) {
			t.Errorf("%s: %v, want %v", name, err, test.class)
		}
	}
}
