package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	inMemory "github.com/moatproject/moat/adapters/memory/contract"
	"github.com/moatproject/moat/contracttests/conform"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
)

type outcome struct {
	status         int
	stdout, stderr string
}

func conforming(ctx context.Context, targets []conform.Target, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	status := conform.Run(ctx, args, &stdout, &stderr, targets...)
	return outcome{status, stdout.String(), stderr.String()}
}

func (o outcome) check(t *testing.T, status int, texts ...string) {
	t.Helper()
	if o.status != status {
		t.Errorf("the status is %d, want %d", o.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(o.stdout+o.stderr, text) {
			t.Errorf("%q is missing", text)
		}
	}
	if t.Failed() {
		t.Logf("stdout:\n%sstderr:\n%s", o.stdout, o.stderr)
	}
}

// inProcess is the target of an in-process runtime, which change may break.
func inProcess(change func(core.Runtime) core.Runtime) []conform.Target {
	return []conform.Target{{
		Registration: detect.Registration{Name: "mine", Candidates: func() []detect.Candidate {
			return []detect.Candidate{{Type: "mine", New: func() (core.Runtime, error) { return change(inMemory.New()), nil }}}
		}},
		Unsupported: inMemory.Unsupported, Images: inMemory.Images,
	}}
}

func TestMemoryConforms(t *testing.T) {
	found := conforming(t.Context(), targets(), "--runtime", "memory", "--run", "RT-1[01]_|CF-18|RT-83")
	found.check(t, conform.StatusPassed,
		"pass         RT-10", "unsupported  CF-18", "it takes a kernel", "pass         RT-83")
	if !strings.Contains(strings.Join(strings.Fields(found.stdout), " "), "memory 3 1 0 0 ") {
		t.Errorf("the table is wrong:\n%s", found.stdout)
	}
}

func TestJSON(t *testing.T) {
	found := conforming(t.Context(), targets(), "--runtime", "Memory", "--run", "RT-10_|CF-18", "--json")
	var rows []map[string]any
	if err := json.Unmarshal([]byte(found.stdout), &rows); err != nil || len(rows) != 2 {
		t.Fatalf("%v: %s", err, found.stdout)
	}
	if rows[0]["number"] != "CF-18" || rows[0]["result"] != "unsupported" || rows[0]["reason"] != "it takes a kernel" || rows[1]["result"] != "pass" {
		t.Errorf("got %v", rows)
	}
}

// stateless is a runtime that tells nothing of its containers' states.
type stateless struct{ core.Runtime }

func (r stateless) Unwrap() core.Runtime { return r.Runtime }

func (stateless) ContainerState(context.Context, string) (string, error) { return "", nil }

func TestABrokenRuntimeFails(t *testing.T) {
	broken := inProcess(func(rt core.Runtime) core.Runtime { return stateless{rt} })
	found := conforming(t.Context(), broken, "--run", "RT-1[01]_|RT-60")
	found.check(t, conform.StatusFailed, "FAIL  RT-60", "the contract (package core, ", "pass  RT-11")
}

func TestWrongDeclarationsFail(t *testing.T) {
	declared := inProcess(func(rt core.Runtime) core.Runtime { return rt })
	declared[0].Unsupported = map[string]string{"RT-83": "declared although it works"}
	conforming(t.Context(), declared, "--run", "RT-83").check(t, conform.StatusFailed, "FAIL  RT-83")

	declared[0].Unsupported = map[string]string{"RT-10": "every runtime can", "RT-999": "no such case"}
	conforming(t.Context(), declared, "--run", "RT-83").check(t, conform.StatusNoTest, "RT-10 a new container", "RT-999")
}

func TestPullsWithoutARegistryAreUntested(t *testing.T) {
	without := inProcess(func(rt core.Runtime) core.Runtime { return rt })
	without[0].Images.PullImage, without[0].Images.MissingImage = "", ""
	found := conforming(t.Context(), without, "--run", "RT-10_|RT-13|RT-83")
	found.check(t, conform.StatusUntested, "untested  RT-13", "untested  RT-83", "no registry", "pass      RT-10")
}

func TestNothingToTest(t *testing.T) {
	t.Setenv("DOCKER_HOST", nowhere)
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"no runtime", nil, "allowed are docker, podman, gvisor, memory"},
		{"an unknown runtime", []string{"--runtime", "dockers"}, `"dockers"`},
		{"no engine", []string{"--runtime", "podman"}, nowhere},
		{"no case", []string{"--runtime", "memory", "--run", "RT-1 "}, "matches no case"},
		{"no regular expression", []string{"--runtime", "memory", "--run", "("}, "--run"},
		{"no flag", []string{"--runtimes"}, "-runtimes"},
		{"a word", []string{"podman"}, `"podman"`},
		{"half a registry", []string{"--runtime", "memory", "--pull-image", "example.org/x"}, "--missing-image"},
		{"no place to run", []string{"--runtime", "memory", "--parallel", "0"}, "--parallel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			found := conforming(t.Context(), targets(), test.args...)
			found.check(t, conform.StatusNoTest, test.want)
			if found.stdout != "" {
				t.Errorf("it prints %q", found.stdout)
			}
		})
	}
}

func TestList(t *testing.T) {
	found := conforming(t.Context(), targets(), "--list", "--run", "RT-10_")
	if found.status != conform.StatusPassed || found.stdout != "RT-10 a new container is created and labelled\n" {
		t.Errorf("got %+v", found)
	}
}

// shared is a runtime that outlives its cases, and calls started when a container is.
type shared struct {
	core.Runtime
	started func()
}

func (r shared) Unwrap() core.Runtime { return r.Runtime }

func (r shared) Close() error { return nil }

func (r shared) StartContainer(ctx context.Context, id string) error {
	err := r.Runtime.StartContainer(ctx, id)
	r.started()
	return err
}

func TestAnInterruptionLeavesNothing(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	engine := inMemory.New()
	defer engine.Close()
	target := inProcess(func(rt core.Runtime) core.Runtime {
		_ = rt.Close()
		return shared{engine, interrupt}
	})
	found := conforming(ctx, target, "--parallel", "1", "--run", "RT-2._")
	found.check(t, conform.StatusInterrupted)
	if strings.Count(found.stderr, "\npass ")+strings.Count(found.stderr, "\nFAIL ") != 1 {
		t.Errorf("other cases have run after the interruption:\n%s", found.stderr)
	}
	if left, err := engine.ListContainers(t.Context()); len(left) > 0 || err != nil {
		t.Errorf("left are %v, %v", left, err)
	}
}
