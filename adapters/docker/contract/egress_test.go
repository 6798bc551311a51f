package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
	create   func(context.Context, core.Config) (string, error)
	release  func(context.Context, string) error
	signal   func(context.Context, string, int) error
}

func breakableOn(host string) (*breakable, error) {
	rt, err := docker.New(docker.Options{Host: host})
	if err != nil {
		return nil, err
	}
	sound := rt.NetworkManager().(restricter)
	return &breakable{
		Runtime: rt, restricter: sound, restrict: sound.CreateRestrictedNetwork, confirm: sound.ConfirmEgress,
		create: rt.CreateContainer, release: rt.ReleaseContainer, signal: rt.SignalContainer,
	}, nil
}

func (b *breakable) CreateContainer(ctx context.Context, cfg core.Config) (string, error) {
	return b.create(ctx, cfg)
}
func (b *breakable) ReleaseContainer(ctx context.Context, id string) error { return b.release(ctx, id) }
func (b *breakable) SignalContainer(ctx context.Context, id string, signal int) error {
	return b.signal(ctx, id, signal)
}

// engine returns a client of the runtime's engine.
func (b *breakable) engine(ctx context.Context) (*client.Client, error) {
	description, err := b.Describe(ctx)
	if err != nil {
		return nil, err
	}
	return client.NewClientWithOpts(client.WithHost(description.Endpoint), client.WithAPIVersionNegotiation())
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
func restrictedBy(create func(*breakable, context.Context, optional.NetworkConfig) (string, error)) func(*breakable) {
	return func(b *breakable) {
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
	engine, err := b.engine(ctx)
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
func shared(b *breakable) {
	var once sync.Once
	var made optional.RestrictedNetwork
	var err error
	create := b.restrict
	b.restrict = func(ctx context.Context, cfg optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error) {
		once.Do(func() { made, err = create(ctx, cfg) })
		return made, err
	}
}

// capable lets workloads keep the capabilities with which they can change their network.
func capable(b *breakable) {
	create := b.create
	b.create = func(ctx context.Context, cfg core.Config) (string, error) {
		if cfg.Held {
			cfg.CapAdd = []string{"NET_ADMIN", "NET_RAW"}
		}
		return create(ctx, cfg)
	}
}

// selfConfirming confirms what is released first.
func selfConfirming(b *breakable) {
	var once sync.Once
	release := b.release
	b.release = func(ctx context.Context, id string) (err error) {
		once.Do(func() { _, err = b.confirm(ctx, id) })
		return errors.Join(err, release(ctx, id))
	}
}

// neighbourly restricts the workload alone.
func neighbourly(b *breakable) {
	b.misplace(func(cfg core.Config) bool { return !cfg.Held })
}

// misplacing confirms workloads that it has put on the usual network.
func misplacing(b *breakable) {
	b.misplace(func(cfg core.Config) bool { return cfg.Held })
	b.confirm = func(context.Context, string) (optional.EgressEvidence, error) { return optional.EgressEvidence{}, nil }
}

// misplace puts some containers of a restricted network on the usual one.
func (b *breakable) misplace(which func(core.Config) bool) {
	var restricted string
	create, restrict := b.create, b.restrict
	b.restrict = func(ctx context.Context, cfg optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error) {
		made, err := restrict(ctx, cfg)
		restricted = made.ID
		return made, err
	}
	b.create = func(ctx context.Context, cfg core.Config) (string, error) {
		if cfg.NetworkMode == restricted && which(cfg) {
			cfg.NetworkMode = ""
		}
		return create(ctx, cfg)
	}
}

// generous allows more than the rules do.
func generous(b *breakable) {
	restrict := b.restrict
	b.restrict = func(ctx context.Context, cfg optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error) {
		cfg.Proxy.Rules = append(cfg.Proxy.Rules, "denied.example:8080")
		return restrict(ctx, cfg)
	}
}

// failingOpen puts a workload on the usual network when its proxy is killed.
func failingOpen(b *breakable) {
	var workload string
	create, signal := b.create, b.signal
	b.create = func(ctx context.Context, cfg core.Config) (string, error) {
		id, err := create(ctx, cfg)
		if cfg.Held {
			workload = id
		}
		return id, err
	}
	b.signal = func(ctx context.Context, id string, number int) error {
		engine, err := b.engine(ctx)
		if err != nil {
			return err
		}
		defer engine.Close()
		return errors.Join(signal(ctx, id, number), engine.NetworkConnect(ctx, network.NetworkBridge, workload, nil))
	}
}

// TestEgressCasesCanFail breaks the obligations of restricted networks. The cases that are
// named must fail for the reason that is named.
func TestEgressCasesCanFail(t *testing.T) {
	for _, engine := range []struct{ name, suffix string }{{"docker", ""}, {"docker-current", "_CURRENT"}} {
		host := os.Getenv("MOAT_TEST_ENGINE" + engine.suffix)
		for _, test := range []struct {
			how   string
			does  func(*breakable)
			fails map[string]string // a case, and words of its failure
		}{
			{"it is open", open, map[string]string{
				"EG-01": "tcp to",
				"EG-02": "device to",
				"EG-05": "device to",
			}},
			{"it has no guard", unguarded, map[string]string{"EG-02": "device to 255.255.255.255"}},
			{"runs share it", shared, map[string]string{"EG-01": "a container on another restricted network"}},
			{"workloads are elsewhere", misplacing, map[string]string{"EG-01": "a name that is looked up on a restricted network has arrived"}},
			{"workloads keep capabilities", capable, map[string]string{"EG-03": "a new route"}},
			{"a release confirms", selfConfirming, map[string]string{"EG-04": "starting what is not confirmed returned <nil>"}},
			{"it restricts the workload alone", neighbourly, map[string]string{"EG-06": "tcp to"}},
			{"the rules are not the run's", generous, map[string]string{"EG-07": "with another host the proxy's answer is"}},
			{"it is open without the proxy", failingOpen, map[string]string{"EG-08": "a container, succeeds"}},
		} {
			for number, words := range test.fails {
				t.Run(engine.name+" "+number+" "+test.how, func(t *testing.T) {
					dockertest.Need(t, engine.name, dockertest.Absence(host, "MOAT_TEST_ENGINE"+engine.suffix))
					checkFailure(t, number, words, func() (core.Runtime, error) {
						b, err := breakableOn(host)
						if err == nil {
							test.does(b)
						}
						return b, err
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
