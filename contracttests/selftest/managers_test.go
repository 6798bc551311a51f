package selftest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// networkHooks is a network manager whose methods can be replaced one by one.
type networkHooks struct {
	core.NetworkManager
	create func(context.Context, optional.NetworkConfig) (string, error)
	remove func(context.Context, string) error
	force  func(context.Context, string) error
	list   func(context.Context) ([]core.NetworkInfo, error)
}

func (n *networkHooks) CreateNetwork(ctx context.Context, name string) (string, error) {
	return n.create(ctx, optional.NetworkConfig{Name: name})
}
func (n *networkHooks) CreateNetworkFrom(ctx context.Context, cfg optional.NetworkConfig) (string, error) {
	return n.create(ctx, cfg)
}
func (n *networkHooks) RemoveNetwork(ctx context.Context, id string) error { return n.remove(ctx, id) }
func (n *networkHooks) ForceRemoveNetwork(ctx context.Context, id string) error {
	return n.force(ctx, id)
}
func (n *networkHooks) ListNetworks(ctx context.Context) ([]core.NetworkInfo, error) {
	return n.list(ctx)
}

// networking breaks the network manager.
func networking(change func(*networkHooks)) func(*hooks) {
	return func(h *hooks) {
		sound := h.full.NetworkManager()
		n := &networkHooks{
			NetworkManager: sound, create: sound.(optional.NetworkCreator).CreateNetworkFrom,
			remove: sound.RemoveNetwork, force: sound.ForceRemoveNetwork, list: sound.ListNetworks,
		}
		change(n)
		h.networkManager = func() core.NetworkManager { return n }
	}
}

// sidecarHooks is a sidecar manager whose methods can be replaced one by one.
type sidecarHooks struct {
	core.SidecarManager
	start   func(context.Context, core.SidecarConfig) (string, error)
	inspect func(context.Context, string) (core.InspectResponse, error)
}

func (s *sidecarHooks) StartSidecar(ctx context.Context, cfg core.SidecarConfig) (string, error) {
	return s.start(ctx, cfg)
}
func (s *sidecarHooks) InspectContainer(ctx context.Context, id string) (core.InspectResponse, error) {
	return s.inspect(ctx, id)
}

// withSidecars breaks the sidecar manager.
func withSidecars(change func(*hooks, *sidecarHooks)) func(*hooks) {
	return func(h *hooks) {
		sound := h.full.SidecarManager()
		s := &sidecarHooks{SidecarManager: sound, start: sound.StartSidecar, inspect: sound.InspectContainer}
		change(h, s)
		h.sidecarManager = func() core.SidecarManager { return s }
	}
}

// sidecarOf changes what sidecars are started from, where that is valid.
func sidecarOf(change func(*core.SidecarConfig)) func(*hooks) {
	return withSidecars(func(_ *hooks, s *sidecarHooks) {
		s.start = func(ctx context.Context, cfg core.SidecarConfig) (string, error) {
			if cfg.Validate() == nil {
				change(&cfg)
			}
			return s.SidecarManager.StartSidecar(ctx, cfg)
		}
	})
}

// serviceHooks is a service manager whose methods can be replaced one by one.
type serviceHooks struct {
	core.ServiceManager
	start   func(context.Context, core.ServiceConfig) (core.ServiceInfo, error)
	check   func(context.Context, core.ServiceInfo) error
	stop    func(context.Context, core.ServiceInfo) error
	network func(string)
}

func (s *serviceHooks) StartService(ctx context.Context, cfg core.ServiceConfig) (core.ServiceInfo, error) {
	return s.start(ctx, cfg)
}
func (s *serviceHooks) CheckReady(ctx context.Context, info core.ServiceInfo) error {
	return s.check(ctx, info)
}
func (s *serviceHooks) StopService(ctx context.Context, info core.ServiceInfo) error {
	return s.stop(ctx, info)
}
func (s *serviceHooks) SetNetworkID(id string) { s.network(id) }

// withServices breaks the service manager.
func withServices(change func(*hooks, *serviceHooks)) func(*hooks) {
	return func(h *hooks) {
		sound := h.full.ServiceManager()
		s := &serviceHooks{
			ServiceManager: sound, start: sound.StartService, check: sound.CheckReady, stop: sound.StopService, network: sound.SetNetworkID,
		}
		change(h, s)
		h.serviceManager = func() core.ServiceManager { return s }
	}
}

// serviceOf changes what services are started from.
func serviceOf(change func(*core.ServiceConfig)) func(*hooks) {
	return withServices(func(_ *hooks, s *serviceHooks) {
		s.start = func(ctx context.Context, cfg core.ServiceConfig) (core.ServiceInfo, error) {
			change(&cfg)
			return s.ServiceManager.StartService(ctx, cfg)
		}
	})
}

// serviceStarted changes what a started service is said to be.
func serviceStarted(change func(*hooks, core.ServiceConfig, *core.ServiceInfo, error) error) func(*hooks) {
	return withServices(func(h *hooks, s *serviceHooks) {
		s.start = func(ctx context.Context, cfg core.ServiceConfig) (core.ServiceInfo, error) {
			info, err := s.ServiceManager.StartService(ctx, cfg)
			err = change(h, cfg, &info, err)
			return info, err
		}
	})
}

// serviceChecked changes what is said of a service's readiness.
func serviceChecked(change func(core.ServiceInfo, error) error) func(*hooks) {
	return withServices(func(_ *hooks, s *serviceHooks) {
		s.check = func(ctx context.Context, info core.ServiceInfo) error {
			return change(info, s.ServiceManager.CheckReady(ctx, info))
		}
	})
}

// leaving starts a container, and leaves it behind when that fails.
func leaving(ctx context.Context, h *hooks, cfg core.Config) (string, error) {
	id, err := h.full.CreateContainer(ctx, cfg)
	if err == nil {
		err = h.full.StartContainer(ctx, id)
	}
	return id, err
}

var managerBreakages = []breakage{
	{number: "NM-01", how: "no version label", do: networking(func(n *networkHooks) {
		n.list = func(ctx context.Context) ([]core.NetworkInfo, error) {
			all, err := n.NetworkManager.ListNetworks(ctx)
			for _, info := range all {
				delete(info.Labels, core.LabelVersion)
			}
			return all, err
		}
	})},
	{number: "NM-01", how: "the list is in no order", do: networking(func(n *networkHooks) {
		n.list = func(ctx context.Context) ([]core.NetworkInfo, error) {
			all, err := n.NetworkManager.ListNetworks(ctx)
			slices.Reverse(all)
			return all, err
		}
	})},
	{number: "NM-11", how: "a creation out of time leaves its network", do: networking(func(n *networkHooks) {
		create := n.create
		n.create = func(ctx context.Context, cfg optional.NetworkConfig) (string, error) {
			id, err := create(ctx, cfg)
			if end, ok := ctx.Deadline(); ok && time.Until(end) < time.Second {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return id, err
		}
	})},
	{number: "NM-02", how: "a taken name is changed", do: networking(func(n *networkHooks) {
		create := n.create
		n.create = func(ctx context.Context, cfg optional.NetworkConfig) (string, error) {
			id, err := create(ctx, cfg)
			if errors.Is(err, core.ErrAlreadyExists) {
				cfg.Name += "-2"
				return create(ctx, cfg)
			}
			return id, err
		}
	})},
	{number: "NM-03", how: "what is missing cannot be removed", do: networking(func(n *networkHooks) {
		n.remove = func(ctx context.Context, id string) error {
			before, _ := n.NetworkManager.ListNetworks(ctx)
			err := n.NetworkManager.RemoveNetwork(ctx, id)
			if after, _ := n.NetworkManager.ListNetworks(ctx); err == nil && len(after) == len(before) {
				return core.ErrNotFound
			}
			return err
		}
	})},
	{number: "NM-04", how: "what is in use is removed", also: []string{"SV-12", "SV-40"}, do: networking(func(n *networkHooks) {
		n.remove = n.NetworkManager.ForceRemoveNetwork
	})},
	{number: "NM-05", how: "what is in use is not removed", do: networking(func(n *networkHooks) {
		n.force = n.NetworkManager.RemoveNetwork
	})},
	{number: "NM-05", how: "what was disconnected keeps its address", do: func(h *hooks) {
		h.inspect = func(ctx context.Context, id string) (optional.Details, error) {
			details, err := h.full.Inspect(ctx, id)
			details.IPAddress = "192.0.2.2"
			return details, err
		}
	}},
	{number: "NM-08", how: "not more than thirty", do: networking(func(n *networkHooks) {
		var number atomic.Int32
		create := n.create
		n.create = func(ctx context.Context, cfg optional.NetworkConfig) (string, error) {
			if number.Add(1) > 30 {
				return "", errors.New("no addresses are left")
			}
			return create(ctx, cfg)
		}
	})},
	{number: "NM-09", how: "Subnet is another", do: networkOf(func(cfg *optional.NetworkConfig) {
		if strings.HasPrefix(cfg.Subnet, "203.") {
			cfg.Subnet = ""
		}
	})},
	{number: "NM-12", how: "Internal is dropped", do: networkOf(func(cfg *optional.NetworkConfig) { cfg.Internal = false })},

	{number: "SM-01", how: "a name is made up", do: withSidecars(func(_ *hooks, s *sidecarHooks) {
		s.start = func(ctx context.Context, cfg core.SidecarConfig) (string, error) {
			cfg.Name = cmp.Or(cfg.Name, "sidecar")
			return s.SidecarManager.StartSidecar(ctx, cfg)
		}
	})},
	{number: "SM-02", how: "the host name is dropped", do: sidecarOf(func(cfg *core.SidecarConfig) { cfg.Hostname = "" })},
	{number: "SM-02", how: "the mounts are dropped", do: sidecarOf(func(cfg *core.SidecarConfig) { cfg.Mounts = nil })},
	{number: "SM-03", how: "the labels are dropped", do: sidecarOf(func(cfg *core.SidecarConfig) { cfg.Labels = nil })},
	{number: "SM-04", how: "what did not start stays", do: withSidecars(func(h *hooks, s *sidecarHooks) {
		s.start = func(ctx context.Context, cfg core.SidecarConfig) (string, error) {
			if err := cfg.Validate(); err != nil {
				return "", err
			}
			return leaving(ctx, h, cfg.Container())
		}
	})},
	{number: "SM-05", how: "another isolation", do: func(h *hooks) {
		h.inspect = func(ctx context.Context, id string) (optional.Details, error) {
			details, err := h.full.Inspect(ctx, id)
			if details.Labels[core.LabelRole] == core.RoleSidecar {
				details.Isolation = optional.IsolationVM
			}
			return details, err
		}
	}},
	{number: "SM-06", how: "the exit code is lost", do: withSidecars(func(_ *hooks, s *sidecarHooks) {
		s.inspect = func(ctx context.Context, id string) (core.InspectResponse, error) {
			found, err := s.SidecarManager.InspectContainer(ctx, id)
			if err == nil {
				found.State.ExitCode = 0
			}
			return found, err
		}
	})},

	{number: "SV-01", how: "an error shows the password", do: serviceChecked(func(info core.ServiceInfo, err error) error {
		if err != nil {
			err = fmt.Errorf("%w (with password %s)", err, info.Env[info.PasswordEnv])
		}
		return err
	})},
	{number: "SV-01", how: "a part of a quoted password shows", do: serviceChecked(func(info core.ServiceInfo, err error) error {
		if _, second, found := strings.Cut(info.Env[info.PasswordEnv], "\n"); found && err != nil {
			err = fmt.Errorf("%w (with a password that ends with %q)", err, second)
		}
		return err
	})},
	{number: "SV-01", how: "an error leads to one that shows it", do: serviceStarted(func(_ *hooks, cfg core.ServiceConfig, _ *core.ServiceInfo, err error) error {
		if found, ok := errors.AsType[*core.Error](err); ok && strings.HasPrefix(cfg.Name, "db-1") {
			return &core.Error{Op: "start", Class: found.Class, Field: found.Field, Err: fmt.Errorf("of %v", cfg.Env["DB_PASSWORD"])}
		}
		return err
	})},
	{number: "SV-10", how: "a run is made up", do: serviceOf(func(cfg *core.ServiceConfig) {
		if cfg.RunID == "" {
			cfg.RunID = "run"
		}
	})},
	{number: "SV-11", how: "the ports are lost", do: serviceStarted(func(_ *hooks, _ core.ServiceConfig, info *core.ServiceInfo, err error) error {
		info.Ports = nil
		return err
	})},
	{number: "SV-12", how: "the configured network is dropped", also: []string{"SV-17", "RT-16"}, do: serviceOf(func(cfg *core.ServiceConfig) { cfg.NetworkID = "" })},
	{number: "SV-12", how: "a network has to be named", also: []string{"SV-40"}, do: serviceStarted(func(_ *hooks, cfg core.ServiceConfig, info *core.ServiceInfo, err error) error {
		if cfg.NetworkID == "" && err == nil {
			err = errors.New("no network")
		}
		return err
	})},
	{number: "SV-13", how: "no host", do: serviceStarted(func(_ *hooks, _ core.ServiceConfig, info *core.ServiceInfo, err error) error {
		info.Host = ""
		return err
	})},
	{number: "SV-15", how: "a port is published", also: []string{"RT-86"}, do: func(h *hooks) {
		h.ports = func(ctx context.Context, id string) (map[int]int, error) {
			ports, err := h.full.GetPortBindings(ctx, id)
			if err == nil {
				ports[8080] = 32768
			}
			return ports, err
		}
	}},
	{number: "SV-16", how: "Pull is dropped", do: serviceOf(func(cfg *core.ServiceConfig) { cfg.Pull = pullingMore(cfg.Pull) })},
	{number: "SM-07", how: "Pull is dropped", do: sidecarOf(func(cfg *core.SidecarConfig) { cfg.Pull = pullingMore(cfg.Pull) })},
	{number: "SV-17", how: "what is missing has no class", also: []string{"SV-16"}, do: serviceStarted(func(_ *hooks, _ core.ServiceConfig, _ *core.ServiceInfo, err error) error {
		if errors.Is(err, core.ErrNotFound) {
			return errors.New("it does not work")
		}
		return err
	})},
	{number: "SV-18", how: "the other service is replaced", do: serviceStarted(func(h *hooks, cfg core.ServiceConfig, info *core.ServiceInfo, err error) error {
		if !errors.Is(err, core.ErrAlreadyExists) {
			return err
		}
		_ = h.full.RemoveContainer(h.t.Context(), core.ServiceName(cfg.Name, cfg.RunID))
		id, err := leaving(h.t.Context(), h, cfg.Container())
		*info = cfg.Info(id, cfg.Name)
		return err
	})},
	{number: "SV-19", how: "what did not start stays", do: serviceStarted(func(h *hooks, cfg core.ServiceConfig, _ *core.ServiceInfo, err error) error {
		if core.FieldOf(err) == "Cmd" && cfg.Name == "db" {
			_, err = leaving(h.t.Context(), h, cfg.Container())
		}
		return err
	})},
	{number: "SV-20", how: "nothing to ask is never ready", do: serviceChecked(func(info core.ServiceInfo, err error) error {
		if info.ReadinessCmd == "" && err == nil {
			return errors.New("not ready")
		}
		return err
	})},
	{number: "SV-21", how: "no reason", do: serviceChecked(func(_ core.ServiceInfo, err error) error {
		if err != nil && !errors.Is(err, core.ErrNotRunning) && !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, context.Canceled) {
			return errors.New("not ready")
		}
		return err
	})},
	{number: "SV-22", how: "a shell parses values", do: withServices(func(_ *hooks, s *serviceHooks) {
		s.check = func(ctx context.Context, info core.ServiceInfo) error {
			info.ReadinessCmd = strings.ReplaceAll(info.ReadinessCmd, "{password}", info.Env[info.PasswordEnv])
			return s.ServiceManager.CheckReady(ctx, info)
		}
	})},
	{number: "SV-23", how: "what has died may still become ready", also: []string{"SV-01"}, do: serviceChecked(func(_ core.ServiceInfo, err error) error {
		if errors.Is(err, core.ErrNotRunning) {
			return errors.New(err.Error())
		}
		return err
	})},
	{number: "SV-30", how: "what was stopped stays", also: []string{"SV-16"}, do: withServices(func(h *hooks, s *serviceHooks) {
		s.stop = func(ctx context.Context, info core.ServiceInfo) error {
			return h.full.StopContainerTimeout(ctx, info.ID, 0)
		}
	})},
	{number: "SV-23", how: "a death while it is waited for is passed over", do: serviceChecked(func(info core.ServiceInfo, err error) error {
		if errors.Is(err, core.ErrNotRunning) && strings.Contains(info.ReadinessCmd, "touch") {
			return errors.New("not ready")
		}
		return err
	})},
	{number: "SV-30", how: "what was never started is an error", do: withServices(func(_ *hooks, s *serviceHooks) {
		s.stop = func(ctx context.Context, info core.ServiceInfo) error {
			if info.ID == "" {
				return &core.Error{Op: "stop service", Field: "id", Class: core.ErrInvalidConfig}
			}
			return s.ServiceManager.StopService(ctx, info)
		}
	})},
	{number: "SV-40", how: "the first network holds for ever", do: withServices(func(_ *hooks, s *serviceHooks) {
		var once sync.Once
		s.network = func(id string) { once.Do(func() { s.ServiceManager.SetNetworkID(id) }) }
	})},
}

// pullingMore pulls where nothing may be pulled.
func pullingMore(policy core.PullPolicy) core.PullPolicy {
	if policy == core.PullNever {
		return core.PullMissing
	}
	return policy
}

// networkOf changes what is asked for of a network.
func networkOf(change func(*optional.NetworkConfig)) func(*hooks) {
	return networking(func(n *networkHooks) {
		create := n.create
		n.create = func(ctx context.Context, cfg optional.NetworkConfig) (string, error) {
			change(&cfg)
			return create(ctx, cfg)
		}
	})
}

var managerImitations = []imitation{
	{"NM-06", "nobody answers", networked("hello\n", "", ""), networked("", "", "")},
	{"NM-06", "who is started again hears nobody", networked("hello\n", "", ""), func(w *world) {
		networked("hello\n", "", "")(w)
		var lives sync.Map
		w.wait = func(ctx context.Context, id string) (int64, error) {
			code, err := w.full.WaitContainer(ctx, id)
			if _, again := lives.LoadOrStore(id, true); again {
				code = 1
			}
			return code, err
		}
	}},
	{"NM-07", "a name is known elsewhere", networked("hello\n", "failed\n", "failed\n"), networked("hello\n", "192.0.2.7\n", "failed\n")},
	{"NM-07", "an address answers elsewhere", networked("hello\n", "failed\n", "failed\n"), networked("hello\n", "failed\n", "hello\n")},
	{"NM-12", "the host answers", publishing(publishedOn(hostIP)), publishing(func(w *world) {
		publishedOn(hostIP)(w)
		create := w.create
		w.create = func(ctx context.Context, cfg core.Config) (string, error) {
			cfg.NetworkMode = "" // a way out
			return create(ctx, cfg)
		}
	})},
	{"NM-10", "an address answers", networked("", "", "failed\n"), networked("", "", "hello\n")},
}

// networked imitates what containers hear: on their own network, when they look a name
// of another network up, and at an address there.
func networked(here, name, address string) func(*world) {
	return func(w *world) {
		w.claims("NetworkPeers")
		var said sync.Map
		w.create = func(ctx context.Context, cfg core.Config) (string, error) {
			id, err := w.full.CreateContainer(ctx, core.Config{Name: cfg.Name, Image: cfg.Image, Cmd: []string{"agent", "say ready"}, RunID: cfg.RunID})
			switch script := fmt.Sprint(cfg.Cmd); {
			case strings.Contains(script, "find "):
				said.Store(id, name)
			case strings.Contains(script, "try ask"):
				said.Store(id, address)
			default:
				said.Store(id, here)
			}
			return id, err
		}
		w.logsAll = func(_ context.Context, id string) ([]byte, error) {
			text, _ := said.Load(id)
			return []byte(fmt.Sprint(text)), nil
		}
	}
}
