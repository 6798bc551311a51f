package docker

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
)

// BenchmarkOverhead compares calls with the same requests made by net/http alone, and
// by the SDK. The difference may be 50 µs and 60 allocations.
func BenchmarkOverhead(b *testing.B) {
	engine := startFake(b)
	engine.on(inspectRoute, inspected("running"))
	engine.on("GET /containers/json", answer(http.StatusOK, make([]container.Summary, 10)))
	r := engine.runtime(b)
	sdk, err := client.NewClientWithOpts(client.WithHost(engine.host), client.WithVersion("1.41"))
	if err != nil {
		b.Fatal(err)
	}
	defer sdk.Close()
	plain := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(engine.host, "unix://"))
	}}}
	defer plain.CloseIdleConnections()
	get := func(path string, into any) error {
		request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://docker"+path, nil)
		if err != nil {
			return err
		}
		response, err := plain.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if into == nil {
			return nil
		}
		return json.NewDecoder(response.Body).Decode(into)
	}
	for _, call := range []struct {
		name string
		do   func() error
	}{
		{"ping/raw", func() error { return get("/_ping", nil) }},
		{"ping/sdk", func() error { _, err := sdk.Ping(b.Context()); return err }},
		{"ping/moat", func() error { return r.Ping(b.Context()) }},
		{"inspect/raw", func() error { return get("/containers/"+testID+"/json", new(container.InspectResponse)) }},
		{"inspect/sdk", func() error { _, err := sdk.ContainerInspect(b.Context(), testID); return err }},
		{"inspect/moat", func() error { _, err := r.ContainerState(b.Context(), testID); return err }},
		{"list/raw", func() error { return get("/containers/json?all=1", new([]container.Summary)) }},
		{"list/sdk", func() error { _, err := sdk.ContainerList(b.Context(), container.ListOptions{All: true}); return err }},
		{"list/moat", func() error { _, err := r.ListContainers(b.Context()); return err }},
	} {
		b.Run(call.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := call.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
