package container_test

import (
	"bytes"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/moatproject/moat/adapters/container"
	"github.com/moatproject/moat/core/detect"
)

// candidates returns those of all bundled runtimes.
func candidates(opts container.RegistrationOptions) (all []detect.Candidate) {
	for _, registration := range container.Registrations(opts) {
		all = append(all, registration.Candidates()...)
	}
	return all
}

func TestCandidates(t *testing.T) {
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
	var got []string
	for _, candidate := range candidates(container.RegistrationOptions{}) {
		got = append(got, string(candidate.Type)+"@"+candidate.Endpoint)
		rt, err := candidate.New()
		if err != nil {
			t.Errorf("%s: making it opens something: %v", candidate.Type, err)
			continue
		}
		_ = rt.Close()
	}
	if want := "docker@tcp://127.0.0.1:1 gvisor@tcp://127.0.0.1:1"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCandidatesOfAnImpossibleEndpointFailWithTheReason(t *testing.T) {
	t.Setenv("DOCKER_HOST", "gopher://127.0.0.1")
	for _, candidate := range candidates(container.RegistrationOptions{}) {
		rt, err := candidate.New()
		if rt != nil || err == nil || !strings.Contains(err.Error(), "gopher://127.0.0.1") {
			t.Errorf("%s: %v, %v", candidate.Type, rt, err)
		}
	}
}

// recorder is a cache that the test can look into.
type recorder struct{ sync.Map }

func (r *recorder) Load(key string) (string, bool) {
	value, ok := r.Map.Load(key)
	text, _ := value.(string)
	return text, ok
}

func (r *recorder) Store(key, value string) { r.Map.Store(key, value) }
func (r *recorder) Delete(key string)       { r.Map.Delete(key) }

func TestCandidatesUseTheOptions(t *testing.T) {
	(&engine{runtimes: []string{"runsc"}, pulls: true}).start(t)
	var (
		log   bytes.Buffer
		cache recorder
	)
	for _, candidate := range candidates(container.RegistrationOptions{
		Logger:      slog.New(slog.NewTextHandler(&log, nil)),
		GVisorCache: &cache,
	}) {
		rt, err := candidate.New()
		if err != nil {
			t.Fatal(err)
		}
		create(t, rt)
		_ = rt.Close()
	}
	if runtime.GOOS == "linux" && !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the log is %q", &log)
	}
	remembered := 0
	cache.Range(func(any, any) bool { remembered++; return true })
	if remembered == 0 {
		t.Error("the verified sandbox was not remembered")
	}
}
