package gvisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

// runscName is gVisor's usual name as a runtime, and its program's.
const runscName = "runsc"

// Resolve returns the name under which the engine runs gVisor, verified by a start.
// With a cached success it makes no call.
//
// An engine without a working gVisor is [core.ErrGVisorNotAvailable], with the reason for
// each runtime that was tried. A failure of the engine itself is returned as the client's
// error, for [docker.Runtime] to classify.
func (s *Sandbox) Resolve(ctx context.Context, engine client.APIClient) (string, error) {
	key := cacheKey(engine)
	if name, ok := s.cache.Load(key); ok {
		return name, nil
	}
	probe, err := newProber(ctx, engine)
	if err != nil {
		return "", err
	}
	found, err := probe.find(ctx)
	if err != nil {
		return "", err
	}
	s.cache.Store(key, found.name)
	return found.name, nil
}

// Forget implements [docker.Sandbox].
func (s *Sandbox) Forget(engine client.APIClient) {
	s.cache.Delete(cacheKey(engine))
}

// cacheKey names the engine without a call. Another engine at the same address may
// ignore the runtime that this one knows, but its socket is a new one.
func cacheKey(engine client.APIClient) string {
	key := "gvisor runtime of " + engine.DaemonHost()
	if socket, ok := strings.CutPrefix(engine.DaemonHost(), "unix://"); ok {
		if info, err := os.Stat(socket); err == nil {
			key += " since " + info.ModTime().UTC().Format(time.RFC3339Nano)
		}
	}
	return key
}

// Available reports whether the engine lists a runtime named runsc. It may not work:
// [Sandbox.Resolve] verifies that. False where the engine does not answer.
func Available(ctx context.Context, engine client.APIClient) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := engine.Info(ctx)
	_, listed := info.Runtimes[runscName]
	return err == nil && listed
}

// candidate is a runtime that may be gVisor.
type candidate struct {
	name string
	system.Runtime
}

// verified is a candidate that is gVisor, and its kernel.
type verified struct {
	candidate
	kernel
}

// find returns the first candidate that a start proves to be gVisor.
func (p prober) find(ctx context.Context) (verified, error) {
	candidates := candidatesOf(p.info)
	var reasons []error
	var remedy string
	for _, candidate := range candidates {
		inside, err := p.verify(ctx, candidate.name)
		if err == nil {
			return verified{candidate, inside}, nil
		}
		// Neither the end of the context nor the engine's state says anything about gVisor.
		if ctx.Err() != nil || client.IsErrConnectionFailed(err) || errors.Is(err, errProbeImage) {
			return verified{}, fmt.Errorf("verify runtime %q: %w", candidate.name, err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("a container under it does not end within %s", runTimeout)
		}
		reasons = append(reasons, fmt.Errorf("runtime %q: %w", candidate.name, err))
		remedy = cmp.Or(remedy, probeRemedy(err))
	}
	if len(candidates) == 0 {
		reasons = append(reasons, errors.New("the engine lists no runtime runsc"))
	}
	return verified{}, &core.Error{
		Op: "find the sandbox", Runtime: Type, Object: p.engine.DaemonHost(),
		Class: core.ErrGVisorNotAvailable, Err: errors.Join(reasons...),
		Remedy: cmp.Or(remedy, "Install gVisor's archive, with its helper programs (docs/gvisor.md)"),
	}
}

// candidatesOf returns the engine's runtimes that have runsc in their name, program
// or shim ("runsc-kvm", "io.containerd.runsc.v1"), the usual name first and the
// others sorted.
func candidatesOf(info system.Info) []candidate {
	var candidates []candidate
	for name, runtime := range info.Runtimes {
		if strings.Contains(strings.Join([]string{name, path.Base(runtime.Path), runtime.Type}, " "), runscName) {
			candidates = append(candidates, candidate{name, runtime.Runtime})
		}
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		switch runscName {
		case a.name:
			return -1
		case b.name:
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	return candidates
}
