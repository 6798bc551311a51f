package gvisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
)

// onEachEngine runs a test on the two ends of the engine versions that are supported.
func onEachEngine(t *testing.T, test func(t *testing.T, host string, engine client.APIClient)) {
	for _, end := range []struct{ name, suffix string }{{harnessName, ""}, {harnessName + "-current", "_CURRENT"}} {
		t.Run(end.name, func(t *testing.T) {
			host := os.Getenv("MOAT_TEST_ENGINE" + end.suffix)
			dockertest.Need(t, end.name, dockertest.Absence(host, "MOAT_TEST_ENGINE"+end.suffix))
			test(t, host, newClient(t, host))
		})
	}
}

// sandboxedOn and plainOn are processes of Moat's, as far as the engine can tell.
func sandboxedOn(t *testing.T, host string) *docker.Runtime {
	t.Helper()
	rt, err := New(docker.Options{Host: host}, Options{})
	must(t, err)
	t.Cleanup(func() { must(t, rt.Close()) })
	return rt
}

func plainOn(t *testing.T, host string) *docker.Runtime {
	t.Helper()
	rt, err := docker.New(docker.Options{Host: host})
	must(t, err)
	t.Cleanup(func() { must(t, rt.Close()) })
	return rt
}

// foreignNetwork makes one that is not Moat's. It can only be removed where the
// resolver has left with the last sandboxed container.
func foreignNetwork(t *testing.T, engine client.APIClient) (id, name string) {
	t.Helper()
	name = fmt.Sprintf("foreign-%d-%d", os.Getpid(), rand.Uint32())
	created, err := engine.NetworkCreate(t.Context(), name, network.CreateOptions{
		IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: fmt.Sprintf("10.211.%d.0/26", rand.Uint32N(256))}}},
	})
	must(t, err)
	t.Cleanup(func() { must(t, engine.NetworkRemove(context.Background(), created.ID)) })
	return created.ID, name
}

// TestNamesAcrossIsolations lets containers with and without a sandbox look each other
// up on one network, which is not Moat's.
func TestNamesAcrossIsolations(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string, engine client.APIClient) {
		_, name := foreignNetwork(t, engine)
		sandboxed, plain := sandboxedOn(t, host), plainOn(t, host)
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
	})
}

// TestResolverStays removes a container where others, which do not run, need the
// resolver, of this process and of another.
func TestResolverStays(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string, engine client.APIClient) {
		network, name := foreignNetwork(t, engine)
		rt, other := sandboxedOn(t, host), sandboxedOn(t, host)
		stopped := create(t, other, seeker(name))
		mustFind(t, other, stopped)
		created := create(t, rt, seeker(name))
		mustLeave(t, rt, create(t, rt, seeker(name)))

		mustFind(t, rt, created)
		mustLeave(t, rt, created)
		mustFind(t, other, stopped)
		mustLeave(t, rt, stopped) // the last, which this process has not created
		if _, err := engine.ContainerInspect(t.Context(), resolverOf(network)); !errdefs.IsNotFound(err) {
			t.Errorf("the resolver without users: %v", err)
		}
	})
}

// TestFailedCreationLeavesNothing: the foreign network can be removed.
func TestFailedCreationLeavesNothing(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string, engine client.APIClient) {
		network, name := foreignNetwork(t, engine)
		cfg := seeker(name)
		cfg.Image, cfg.Pull = "moat/no-such-image:latest", core.PullNever
		if _, err := sandboxedOn(t, host).CreateContainer(t.Context(), cfg); !errors.Is(err, core.ErrNotFound) {
			t.Errorf("got %v, want %v", err, core.ErrNotFound)
		}
		if _, err := engine.ContainerInspect(t.Context(), resolverOf(network)); !errdefs.IsNotFound(err) {
			t.Errorf("the resolver without users: %v", err)
		}
	})
}

// TestResolverComesBack has the resolver crash, be stopped, and lose its address.
func TestResolverComesBack(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string, engine client.APIClient) {
		rt := sandboxedOn(t, host)
		network, err := rt.NetworkManager().CreateNetwork(t.Context(), fmt.Sprintf("resolver-%d-%d", os.Getpid(), rand.Uint32()))
		must(t, err)
		t.Cleanup(func() {
			must(t, rt.NetworkManager().RemoveNetwork(context.Background(), network))
			if _, err := engine.ContainerInspect(context.Background(), resolverOf(network)); !errdefs.IsNotFound(err) {
				t.Errorf("the resolver after its network: %v", err)
			}
		})
		old := create(t, rt, seeker(network))
		mustFind(t, rt, old)

		resolver, err := engine.ContainerInspect(t.Context(), resolverOf(network))
		must(t, err)
		address := resolver.NetworkSettings.Networks
		must(t, syscall.Kill(resolver.State.Pid, syscall.SIGKILL))
		mustFind(t, rt, create(t, rt, seeker(network)))
		mustFind(t, rt, old)

		must(t, engine.ContainerKill(t.Context(), resolver.ID, "KILL"))
		occupy(t, engine, network, address)
		mustFind(t, rt, create(t, rt, seeker(network)))
		mustFind(t, rt, old)

		must(t, engine.ContainerKill(t.Context(), resolver.ID, "KILL")) // it holds no network that is removed
	})
}

// occupy starts a container that has the only address of a network that was another's.
func occupy(t *testing.T, engine client.APIClient, networkID string, of map[string]*network.EndpointSettings) {
	t.Helper()
	for _, had := range of {
		if net.ParseIP(had.IPAddress) == nil {
			t.Fatalf("the resolver's address is %q", had.IPAddress)
		}
		created, err := engine.ContainerCreate(t.Context(),
			&container.Config{Image: baseImage, Cmd: []string{"sleep", "1000"}}, &container.HostConfig{NetworkMode: container.NetworkMode(networkID)},
			&network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
				networkID: {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: had.IPAddress}},
			}}, nil, "")
		must(t, err)
		t.Cleanup(func() {
			must(t, engine.ContainerRemove(context.Background(), created.ID, container.RemoveOptions{Force: true}))
		})
		must(t, engine.ContainerStart(t.Context(), created.ID, container.StartOptions{}))
	}
}

func resolverOf(networkID string) string { return "moat-resolver-" + networkID[:12] }

// seeker looks itself up, until it is found.
func seeker(network string) core.Config {
	return core.Config{Image: baseImage, NetworkMode: network, Cmd: []string{"sh", "-c", `for try in $(seq 100); do
		nslookup $(hostname) >/dev/null && exit
		sleep 0.1
	done; exit 1`}}
}

// mustFind starts a seeker and waits for its success.
func mustFind(t *testing.T, rt core.Runtime, id string) {
	t.Helper()
	must(t, rt.StartContainer(t.Context(), id))
	if code, err := rt.WaitContainer(t.Context(), id); code != 0 || err != nil {
		said, _ := rt.ContainerLogsAll(t.Context(), id)
		t.Errorf("it exited with code %d, %v: %s", code, err, said)
	}
}

// mustLeave removes a container before its test ends.
func mustLeave(t *testing.T, rt core.Runtime, id string) {
	t.Helper()
	must(t, rt.RemoveContainer(t.Context(), id))
}

// create creates a container that is removed with the test.
func create(t *testing.T, rt core.Runtime, cfg core.Config) (id string) {
	t.Helper()
	id, err := rt.CreateContainer(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, rt.RemoveContainer(context.Background(), id)) })
	return id
}

// start starts a container that is removed with the test.
func start(t *testing.T, rt core.Runtime, cfg core.Config) (id string) {
	t.Helper()
	id = create(t, rt, cfg)
	must(t, rt.StartContainer(t.Context(), id))
	return id
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
