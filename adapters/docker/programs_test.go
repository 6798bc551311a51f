package docker

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
)

// TestProgramImage has images with the right name, and the right content or another.
func TestProgramImage(t *testing.T) {
	program := []byte("a program")
	ours := answer(http.StatusOK, imageOf("name", program, nil))
	missing := failure(http.StatusNotFound, "No such image")
	create := "POST /containers/create?name=helper"
	look := "GET /images/" + programImage("name", program) + "/json"
	for name, test := range map[string]struct {
		found   []http.HandlerFunc
		imports int
		created bool
	}{
		"it is there":            {[]http.HandlerFunc{ours}, 0, true},
		"it is missing":          {[]http.HandlerFunc{missing, ours}, 1, true},
		"another program":        {[]http.HandlerFunc{answer(http.StatusOK, imageOf("name", []byte("another"), nil)), ours}, 1, true},
		"another name":           {[]http.HandlerFunc{answer(http.StatusOK, imageOf("other", program, nil)), ours}, 1, true},
		"an environment":         {[]http.HandlerFunc{answer(http.StatusOK, imageOf("name", program, []string{"GODEBUG=x"})), ours}, 1, true},
		"it is replaced at once": {[]http.HandlerFunc{answer(http.StatusOK, imageOf("name", []byte("another"), nil))}, 1, false},
		"it is removed at once":  {[]http.HandlerFunc{missing}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("GET /images/{name...}", inOrder(test.found...))
			var changes []string
			engine.on("POST /images/create", func(_ http.ResponseWriter, r *http.Request) { changes = r.URL.Query()["changes"] })
			var bodies []container.CreateRequest
			engine.on("POST /containers/create", recorded(&bodies, answer(http.StatusCreated, container.CreateResponse{ID: testID})))
			r := engine.runtime(t)
			for range 2 {
				if err := r.createHelper(t.Context(), helperSpec{name: "helper", program: "name", binary: program}); (err == nil) != test.created {
					t.Fatal(err)
				}
			}
			asked := engine.requests()
			imports := slices.DeleteFunc(slices.Clone(asked), func(request string) bool { return !strings.HasPrefix(request, "POST /images/create") })
			if !test.created {
				if slices.Contains(asked, create) {
					t.Error("it was used")
				}
				return
			}
			if bodies[0].Image != programImageTestID || len(imports) != test.imports {
				t.Errorf("%s was used, after %d imports", bodies[0].Image, len(imports))
			}
			if test.imports > 0 && !slices.Contains(changes, `ENTRYPOINT ["/name"]`) {
				t.Errorf("it was made with %q", changes)
			}
			if looks := slices.Index(asked[slices.Index(asked, create):], look); looks >= 0 {
				t.Error("the second helper looks again")
			}
		})
	}
}

// TestProgramImageRemoved has one that others remove while it is known.
func TestProgramImageRemoved(t *testing.T) {
	program := []byte("a program")
	engine := startFake(t)
	engine.on("GET /images/{name...}", inOrder(answer(http.StatusOK, imageOf("name", program, nil)), failure(http.StatusNotFound, "No such image"), answer(http.StatusOK, imageOf("name", program, nil))))
	created := answer(http.StatusCreated, container.CreateResponse{ID: testID})
	engine.on("POST /containers/create", inOrder(failure(http.StatusNotFound, "No such image: sha256"), created))
	if err := engine.runtime(t).createHelper(t.Context(), helperSpec{name: "helper", program: "name", binary: program}); err != nil {
		t.Fatal(err)
	}
	if asked := engine.requests(); !slices.ContainsFunc(asked, func(request string) bool { return strings.HasPrefix(request, "POST /images/create") }) {
		t.Errorf("it was not imported: %q", asked)
	}
}
