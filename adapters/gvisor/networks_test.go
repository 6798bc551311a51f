package gvisor

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/core"
)

// TestNamesAcrossIsolations lets containers with and without a sandbox look each other
// up on one network, which is not Moat's.
func TestNamesAcrossIsolations(t *testing.T) {
	engine := realEngine(t)
	host := os.Getenv("MOAT_TEST_ENGINE")
	name := fmt.Sprintf("names-%d", os.Getpid())
	created, err := engine.NetworkCreate(t.Context(), name, network.CreateOptions{
		IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: "10.211.0.0/26"}}},
	})
	must(t, err)
	t.Cleanup(func() { // the resolver has left with the last sandboxed container
		must(t, engine.NetworkRemove(context.Background(), created.ID))
	})
	sandboxed, err := New(docker.Options{Host: host}, Options{})
	must(t, err)
	plain, err := docker.New(docker.Options{Host: host})
	must(t, err)
	for _, pair := range []struct {
		server, client *docker.Runtime
		name           string
	}{{sandboxed, plain, "in-" + name}, {plain, sandboxed, "out-" + name}} {
		cfg := core.Config{Image: baseImage, Name: pair.name, NetworkMode: name, Cmd: []string{"sh", "-c", "while true; do echo hello | nc -l -p 8080; done"}}
		start(t, pair.server, cfg)
		cfg.Name, cfg.Cmd = "", []string{"sh", "-c", fmt.Sprintf(`for try in $(seq 100); do
			address=$(nslookup %s | sed -n 's/^Address: *\([0-9.]*\)$/\1/p' | tail -n 1)
			[ "$address" ] && timeout 5 nc "$address" 8080 </dev/null | grep hello && exit
			sleep 0.1
		done; exit 1`, pair.name)}
		id := start(t, pair.client, cfg)
		if code, err := pair.client.WaitContainer(t.Context(), id); code != 0 || err != nil {
			said, _ := pair.client.ContainerLogsAll(t.Context(), id)
			t.Errorf("who looked %s up exited with code %d, %v: %s", pair.name, code, err, said)
		}
	}
}

// start starts a container that is removed with the test.
func start(t *testing.T, rt core.Runtime, cfg core.Config) (id string) {
	t.Helper()
	id, err := rt.CreateContainer(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, rt.RemoveContainer(context.Background(), id)) })
	must(t, rt.StartContainer(t.Context(), id))
	return id
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
