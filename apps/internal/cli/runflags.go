package cli

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-connections/nat"
	"github.com/docker/go-units"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/run"
	"github.com/moatproject/moat/core/services"
	"github.com/spf13/pflag"
)

// runOptions are the flags of `moat run`, as they were typed.
type runOptions struct {
	interactive, tty, detach, remove, privileged bool

	name, workdir, user, memory, network, pull string
	detachKeys                                 detachKeys
	env, envFile, volumes, publish, labels     []string
	dns, extraHosts, capAdd, groupAdd          []string
	services, networkAliases                   []string
	egress, egressPrivate                      []string
	hostname                                   string
	cpus                                       float64
	stopTimeout                                int
	serviceTimeout, timeout, idleTimeout       time.Duration
	pidsLimit                                  pidsLimit
}

func (o *runOptions) register(flags *pflag.FlagSet) {
	flags.SetInterspersed(false) // what follows IMAGE is the workload's
	flags.BoolVarP(&o.interactive, "interactive", "i", false, "forward standard input")
	flags.BoolVarP(&o.tty, "tty", "t", false, "give the workload a terminal")
	flags.BoolVarP(&o.detach, "detach", "d", false, "print the container's ID and leave it running")
	flags.BoolVar(&o.remove, "rm", false, "remove the container when it has exited")
	flags.StringVar(&o.name, "name", "", "name of the container (default: the run's ID)")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "environment `KEY=value`, or KEY for this process's value")
	flags.StringArrayVar(&o.envFile, "env-file", nil, "read environment from a `file` of KEY=value lines")
	flags.StringArrayVarP(&o.volumes, "volume", "v", nil, "bind mount `SRC:DST[:ro]`")
	o.detachKeys.register(flags)
	flags.StringVarP(&o.workdir, "workdir", "w", "", "working directory in the container")
	flags.StringVarP(&o.user, "user", "u", "", "user to run as, `USER[:GROUP]`")
	flags.StringArrayVarP(&o.publish, "publish", "p", nil, "publish a port or a range, `[BIND:][HOSTPORT:]PORT[/udp]` (default: a free port on 127.0.0.1; udp needs --egress open)")
	flags.StringVarP(&o.memory, "memory", "m", "", "memory limit, swap included: a `size` in whole megabytes, such as 512m or 2g (default: no limit)")
	flags.Float64Var(&o.cpus, "cpus", 0, "maximum `number` of CPUs, such as 1.5 (default: no limit)")
	flags.Var(&o.pidsLimit, "pids-limit", fmt.Sprintf("maximum `number` of processes and threads, -1 for no limit (default %d)", core.DefaultPidsLimit))
	flags.DurationVar(&o.timeout, "timeout", 0, "stop the workload when it has run for so long, such as 10m, and exit with 124 (default: never)")
	flags.DurationVar(&o.idleTimeout, "idle-timeout", 0, "stop the workload when it has had no input and no output for so long, such as 1m, and exit with 124 (default: never)")
	flags.StringVar(&o.network, "network", "", "network: none, a network's `name`, or bridge or host, which are open (default: as --egress says)")
	flags.StringArrayVar(&o.egress, "egress", nil, "reach this `HOST[:PORT]`, *.DOMAIN[:PORT] or @PRESET outside, through a proxy; can be repeated; open: reach everything (default $MOAT_EGRESS, else nothing)")
	flags.StringArrayVar(&o.egressPrivate, "egress-private", nil, "with --egress: a `SUBNET` that may be reached although it is not public, such as 10.1.0.0/16")
	flags.StringArrayVar(&o.networkAliases, "network-alias", nil, "further `name` on the network that --network names")
	flags.StringVar(&o.hostname, "hostname", "", "host `name` inside the container")
	flags.StringArrayVar(&o.services, "service", nil, "run a `SERVICE[:VERSION]` beside the workload, which finds it by MOAT_<SERVICE>_URL: "+serviceNames())
	flags.DurationVar(&o.serviceTimeout, "service-timeout", services.DefaultReadyTimeout, "how long a service may take until it is ready, such as 30s")
	flags.StringArrayVar(&o.dns, "dns", nil, "DNS server `IP`")
	flags.StringArrayVar(&o.extraHosts, "add-host", nil, "entry for /etc/hosts, `HOST:IP`")
	flags.StringArrayVar(&o.capAdd, "cap-add", nil, "Linux `capability` to add, such as NET_ADMIN; can be repeated")
	flags.StringArrayVar(&o.groupAdd, "group-add", nil, "supplementary `group` of the user; can be repeated")
	flags.BoolVar(&o.privileged, "privileged", false, "lift every restriction; needs --no-sandbox")
	flags.StringArrayVarP(&o.labels, "label", "l", nil, "label `KEY=value`")
	flags.StringVar(&o.pull, "pull", string(core.PullMissing), "pull the image: missing, always or never")
	flags.IntVar(&o.stopTimeout, "stop-timeout", 0, "`seconds` between SIGTERM and SIGKILL when stopped (default 10)")
}

// spec turns flags and arguments into what is to be run.
func (o *runOptions) spec(env Env, args []string) (run.Spec, error) {
	workload, err := o.config(env, args)
	if err != nil {
		return run.Spec{}, err
	}
	services, err := o.parseServices()
	if err != nil {
		return run.Spec{}, err
	}
	spec := run.Spec{
		Workload: workload, Services: services, ServiceTimeout: o.serviceTimeout,
		Timeout: o.timeout, IdleTimeout: o.idleTimeout, Keep: !o.remove, Detached: o.detach,
	}
	if err := o.parseEgress(env, &spec); err != nil {
		return run.Spec{}, err
	}
	return spec, spec.Validate()
}

// config turns flags and arguments into the workload's configuration.
func (o *runOptions) config(env Env, args []string) (core.Config, error) {
	config := core.Config{
		Name: o.name, Image: args[0], Cmd: args[1:], WorkingDir: o.workdir, User: o.user,
		Interactive: o.interactive, TTY: o.tty,
		Hostname: o.hostname, NetworkAliases: o.networkAliases,
		NetworkMode: o.network, DNS: o.dns, ExtraHosts: o.extraHosts, Privileged: o.privileged,
		GroupAdd: o.groupAdd, Pull: core.PullPolicy(o.pull),
		StopTimeout: time.Duration(o.stopTimeout) * time.Second, PidsLimit: int64(o.pidsLimit),
	}
	for _, name := range o.capAdd {
		config.CapAdd = append(config.CapAdd, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
	}
	var errs [6]error
	config.Env, errs[0] = environment(env, o.envFile, "-e", o.env)
	config.Mounts, errs[1] = parseEach("-v", o.volumes, func(s string) (core.MountConfig, error) { return parseVolume(env, s) })
	ports, err := parseEach("-p", o.publish, parsePorts)
	config.Ports, errs[2] = slices.Concat(ports...), err
	config.MemoryMB, errs[3] = parseMemory(o.memory)
	config.NanoCPUs, errs[4] = parseCPUs(o.cpus)
	config.Labels, errs[5] = parseLabels(o.labels)
	if err := errors.Join(errs[:]...); err != nil {
		return core.Config{}, err
	}
	return config, nil
}

// pidsLimit is the value of --pids-limit. Docker reads 0 as no limit, and core as the
// default one, so that it is refused.
type pidsLimit int64

func (p *pidsLimit) Set(text string) error {
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil || value == 0 || value < -1 {
		return errors.New("want a number above zero, or -1 for no limit")
	}
	*p = pidsLimit(value)
	return nil
}

func (p *pidsLimit) String() string { return "" }
func (p *pidsLimit) Type() string   { return "number" }

func parseEach[T any](flag string, values []string, parse func(string) (T, error)) ([]T, error) {
	var parsed []T
	for _, value := range values {
		item, err := parse(value)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", flag, value, err)
		}
		parsed = append(parsed, item)
	}
	return parsed, nil
}

func parseVolume(env Env, spec string) (core.MountConfig, error) {
	parts := strings.Split(spec, ":")
	if len(parts) < 2 || len(parts) > 3 || (len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw") {
		return core.MountConfig{}, errors.New("want SRC:DST or SRC:DST:ro")
	}
	source := parts[0]
	if !filepath.IsAbs(source) && !strings.HasPrefix(source, ".") {
		return core.MountConfig{}, errors.New("named volumes are not supported; give a path that begins with / or ./")
	}
	source, err := env.Abs(source)
	return core.MountConfig{Source: source, Target: parts[1], ReadOnly: len(parts) == 3 && parts[2] == "ro"}, err
}

// parsePorts reads [BIND:][HOSTPORT:]PORT[/PROTOCOL] as Docker does, ranges and an IPv6
// BIND in brackets included. It also takes BIND:PORT.
func parsePorts(spec string) ([]core.PortMapping, error) {
	if i := strings.LastIndexByte(spec, ':'); i > 0 {
		bind := spec[:i]
		address, err := netip.ParseAddr(bind)
		if (err == nil && address.Is4()) || (bind[0] == '[' && bind[i-1] == ']') {
			spec = bind + ":" + spec[i:]
		}
	}
	parsed, err := nat.ParsePortSpec(spec)
	if err != nil {
		return nil, fmt.Errorf("%w; want [BIND:][HOSTPORT:]PORT[/udp], where ports may be ranges such as 8000-8010", err)
	}
	ports := make([]core.PortMapping, len(parsed))
	for i, p := range parsed {
		first, last, err := nat.ParsePortRangeToInt(p.Binding.HostPort)
		if err != nil {
			return nil, err
		}
		ports[i] = core.PortMapping{ContainerPort: p.Port.Int(), Protocol: p.Port.Proto(), HostIP: p.Binding.HostIP, HostPort: first}
		if last > first {
			ports[i].HostPortEnd = last
		}
	}
	return ports, nil
}

func parseMemory(value string) (int, error) {
	if value == "" {
		return 0, nil
	}
	bytes, err := units.RAMInBytes(value)
	if err != nil || bytes <= 0 {
		return 0, fmt.Errorf("-m %q: want a size such as 512m or 2g", value)
	}
	if bytes%units.MiB != 0 {
		return 0, fmt.Errorf("-m %q: want whole megabytes", value)
	}
	return int(bytes / units.MiB), nil
}

func parseCPUs(value float64) (int64, error) {
	if value < 0 || math.IsNaN(value) || value > 1e6 {
		return 0, fmt.Errorf("--cpus %v: want a number of CPUs such as 1.5", value)
	}
	return int64(math.Round(value * 1e9)), nil
}

func parseLabels(values []string) (map[string]string, error) {
	labels := make(map[string]string, len(values))
	for _, value := range values {
		key, text, _ := strings.Cut(value, "=")
		if key == "" {
			return nil, fmt.Errorf("--label %q: want KEY=value", value)
		}
		labels[key] = text
	}
	return labels, nil
}
