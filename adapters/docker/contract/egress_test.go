package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/contracttests/conform"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/optional"
)

// restricter is the network manager of a runtime that can be broken.
type restricter interface {
	core.NetworkManager
	optional.NetworkCreator
	optional.EgressRestricter
}

// breakable is a runtime whose methods can be replaced one by one.
type breakable struct {
	*docker.Runtime
	restricter

	restrict func(context.Context, optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error)
	confirm  func(context.Context, string) (optional.EgressEvidence, error)
}

func (b *breakable) NetworkManager() core.NetworkManager { return brokenNetworks{b.restricter, b} }

type brokenNetworks struct {
	restricter
	of *breakable
}

func (n brokenNetworks) CreateRestrictedNetwork(ctx context.Context, cfg optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error) {
	return n.of.restrict(ctx, cfg)
}

func (n brokenNetworks) ConfirmEgress(ctx context.Context, id string) (optional.EgressEvidence, error) {
	return n.of.confirm(ctx, id)
}

// restrictedBy has restricted networks that create makes, and confirms them whatever they are.
func restrictedBy(create func(*breakable, context.Context, optional.NetworkConfig) (string, error)) func(*testing.T, *breakable) {
	return func(_ *testing.T, b *breakable) {
		b.restrict = func(ctx context.Context, cfg optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error) {
			id, err := create(b, ctx, cfg.NetworkConfig)
			return optional.RestrictedNetwork{ID: id}, err
		}
		b.confirm = func(context.Context, string) (optional.EgressEvidence, error) { return optional.EgressEvidence{}, nil }
	}
}

// open is a network that is not restricted.
var open = restrictedBy(func(b *breakable, ctx context.Context, cfg optional.NetworkConfig) (string, error) {
	return b.CreateNetworkFrom(ctx, cfg)
})

// unguarded is a network that only the engine's options close.
var unguarded = restrictedBy(func(b *breakable, ctx context.Context, cfg optional.NetworkConfig) (string, error) {
	description, err := b.Describe(ctx)
	if err != nil {
		return "", err
	}
	engine, err := client.NewClientWithOpts(client.WithHost(description.Endpoint), client.WithAPIVersionNegotiation())
	if err != nil {
		return "", err
	}
	defer engine.Close()
	made, err := engine.NetworkCreate(ctx, cfg.Name, network.CreateOptions{
		Internal: true, Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"},
		Labels: core.ObjectLabels(cfg.RunID, core.RoleNetwork),
	})
	return made.ID, err
})

// shared is one restricted network for all runs.
func shared(_ *testing.T, b *breakable) {
	var once sync.Once
	var made optional.RestrictedNetwork
	var err error
	create := b.restrict
	b.restrict = func(ctx context.Context, cfg optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error) {
		once.Do(func() { made, err = create(ctx, cfg) })
		return made, err
	}
}

// TestEgressCasesCanFail breaks the obligations of restricted networks. The cases that are
// named must fail for the reason that is named.
func TestEgressCasesCanFail(t *testing.T) {
	for _, engine := range []struct{ name, suffix string }{{"docker", ""}, {"docker-current", "_CURRENT"}} {
		host := os.Getenv("MOAT_TEST_ENGINE" + engine.suffix)
		for _, test := range []struct {
			how   string
			does  func(*testing.T, *breakable)
			fails map[string]string // a case, and words of its failure
		}{
			{"it is open", open, map[string]string{
				"EG-01": "tcp to",
				"EG-02": "device to",
			}},
			{"it has no guard", unguarded, map[string]string{"EG-02": "device to 255.255.255.255"}},
			{"runs share it", shared, map[string]string{"EG-01": "a container on another restricted network"}},
		} {
			for number, words := range test.fails {
				t.Run(engine.name+" "+number+" "+test.how, func(t *testing.T) {
					dockertest.Need(t, engine.name, dockertest.Absence(host, "MOAT_TEST_ENGINE"+engine.suffix))
					checkFailure(t, number, words, func() (core.Runtime, error) {
						rt, err := docker.New(docker.Options{Host: host})
						if err != nil {
							return nil, err
						}
						sound := rt.NetworkManager().(restricter)
						b := &breakable{Runtime: rt, restricter: sound, restrict: sound.CreateRestrictedNetwork, confirm: sound.ConfirmEgress}
						test.does(t, b)
						return b, nil
					})
				})
			}
		}
	}
}

// checkFailure runs a case on a broken runtime.
func checkFailure(t *testing.T, number, words string, broken func() (core.Runtime, error)) {
	t.Helper()
	proxy, err := dockertest.EgressProxy(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/moat-proxy"
	if err := os.WriteFile(path, proxy, 0o755); err != nil {
		t.Fatal(err)
	}
	suite := harness("", "", docker.Options{})
	var stdout, stderr bytes.Buffer
	status := conform.Run(t.Context(), []string{"--run", number, "--json", "--proxy", path}, &stdout, &stderr, conform.Target{
		Registration: detect.Registration{Name: "broken", Candidates: func() []detect.Candidate {
			return []detect.Candidate{{Type: "broken", New: broken}}
		}},
		Images: conform.Images{Image: suite.Image, ConfigImage: suite.ConfigImage},
	})
	var results []struct{ Output string }
	if err := json.Unmarshal(stdout.Bytes(), &results); err != nil || len(results) != 1 {
		t.Fatalf("%v: %s", err, &stderr)
	}
	if said := results[0].Output; status != conform.StatusFailed || !strings.Contains(said, words) || strings.Contains(said, "clean up") {
		t.Errorf("the status is %d, want %d and %q in: %s", status, conform.StatusFailed, words, said)
	}
	t.Logf("it says:\n%s", results[0].Output)
}
