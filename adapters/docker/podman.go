package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// podmanHeader is the header of a ping's response that only Podman sends.
const podmanHeader = "Libpod-Api-Version"

// libpod is the path prefix of Podman's own API, in the oldest version that each Podman
// with a new enough Docker API has.
const libpod = "/v4.0.0/libpod"

var podman = product{
	name: "Podman",
	// The driver keeps bytes unchanged. At its limit it empties the log: there is no second
	// file.
	logConfig: container.LogConfig{Type: "k8s-file", Config: map[string]string{"max-size": "128m"}},
	filters: map[events.Action][]string{
		events.ActionDie:     {"died"},
		events.ActionDestroy: {"remove"},
	},
	hostTimeout:     15 * time.Second, // it inspects each container and waits for stopping ones
	halfCloses:      true,
	attachToLog:     attachToLogOnPodman,
	openLogs:        openLogsOnPodman,
	familiar:        familiarOnPodman,
	noSandbox:       "Podman ignores the OCI runtime that Docker's API asks for, and would run the container without its sandbox",
	fit:             fitPodman,
	destroy:         destroyOnPodman,
	awaitExit:       awaitExitOnPodman,
	awaitFirstExit:  awaitFirstExitOnPodman,
	noEgress:        "Podman's internal networks have no name server",
	createNetwork:   createNetworkOnPodman,
	removeNetwork:   removeNetworkOnPodman,
	members:         membersOnPodman,
	headers:         []func(*tar.Header){optional.GNUHeader}, // Podman rounds times up
	vetTarget:       vetTargetOnPodman,
	linksInside:     true,
	resizeTries:     600, // half a minute
	dropsSizes:      true,
	lastWords:       lastWordsOfPodman,
	execRefusal:     isExecRefusalOfPodman,
	refusesOnStderr: true,
	unstarted:       isUnstartedOnPodman,
	list:            listOnPodman,
	imageGone:       isImageGoneOnPodman,
	openArchive:     openArchiveOnPodman,
	statOf:          statOnPodman,
}

// askPodman makes a request of Podman's own API. A nil answer is not decoded.
func (r *Runtime) askPodman(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	return r.askJSON(ctx, method, libpod+path, query, body, answer)
}

// askJSON makes a request without the SDK. Its path includes the API's version.
func (r *Runtime) askJSON(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			return err
		}
	}
	response, err := r.requestVersioned(ctx, method, path, query, http.Header{"Content-Type": {"application/json"}}, &content)
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return podmanError(refusal(response))
	}
	defer response.Body.Close()
	if answer == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

// podmanError classifies a missing container as not found, which the status of Podman's
// response does not always do.
func podmanError(err error) error {
	if strings.Contains(err.Error(), podmanNoContainer) {
		return &causedError{err, errdefs.ErrNotFound}
	}
	return err
}

// podmanNoContainer ends Podman's message for a missing container.
const podmanNoContainer = "no such container"

// podmanProcessGone ends the message of an inspection that a process's end has upset.
const podmanProcessGone = "/cgroup: no such process"

// familiarOnPodman returns an image's name without Docker's registry, and Moat's images
// without the localhost/ that Podman adds to a name without a registry.
func familiarOnPodman(name string) string {
	if ours, found := strings.CutPrefix(name, "localhost/"); found && strings.HasPrefix(ours, core.ImagePrefix) {
		return ours
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

// hostGateway is the word in ExtraHosts for the address of the engine's host.
const hostGateway = "host-gateway"

// noLinkLocal removes the IPv6 link-local address of a container's only interface: on an
// internal network it is the only way to the engine's host.
var noLinkLocal = map[string]string{"net.ipv6.conf.eth0.disable_ipv6": "1"}

func fitPodman(r *Runtime, c *call, cfg core.Config, joined network.Inspect, asked *request) error {
	host := asked.hostConfig
	if joined.Internal {
		host.Sysctls = noLinkLocal
	}
	// Podman creates a container with a missing mount source and then fails to start it.
	if strings.HasPrefix(r.options.Host, "unix://") && r.options.GOOS == "linux" {
		for _, mount := range cfg.Mounts {
			if _, err := os.Stat(filepath.Clean(mount.Source)); errors.Is(err, os.ErrNotExist) {
				return c.failed(errors.New("bind source path does not exist: " + mount.Source))
			}
		}
	}
	for _, bindings := range host.PortBindings {
		if slices.ContainsFunc(bindings, func(b nat.PortBinding) bool { return strings.Contains(b.HostPort, "-") }) {
			return c.wrong(core.ErrUnsupported, "Ports", "Podman chooses no host port from a range", "Name one host port, or none for a free one")
		}
	}
	// Podman takes the word for an address.
	for i, entry := range host.ExtraHosts {
		name, address, _ := strings.Cut(entry, ":")
		if address != hostGateway {
			continue
		}
		facts, err := r.hostFacts(c.ctx)
		if err != nil {
			return c.failed(err)
		}
		host.ExtraHosts = slices.Clone(host.ExtraHosts)
		host.ExtraHosts[i] = name + ":" + facts.address
	}
	return nil
}

// podmanContainer is a row of the list of Podman's own API.
type podmanContainer struct {
	ID, Image, State string
	Names            []string
	Created          time.Time
	Labels           map[string]string
	Ports            []struct {
		HostIP        string `json:"host_ip"`
		ContainerPort uint16 `json:"container_port"`
		HostPort      uint16 `json:"host_port"`
		Range         uint16
		Protocol      string
	}
}

// listOnPodman uses Podman's own API: through Docker's, containers come in no order and
// their times are in whole seconds.
func listOnPodman(ctx context.Context, r *Runtime) ([]container.Summary, error) {
	var found []podmanContainer
	if err := r.askPodman(ctx, http.MethodGet, "/containers/json", url.Values{"all": {"true"}}, nil, &found); err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b podmanContainer) int { return b.Created.Compare(a.Created) })
	all := make([]container.Summary, len(found))
	for i, one := range found {
		all[i] = container.Summary{
			ID: one.ID, Names: one.Names, Image: one.Image, State: one.State, Created: one.Created.Unix(), Labels: one.Labels,
		}
		for _, port := range one.Ports {
			for n := range max(1, port.Range) {
				all[i].Ports = append(all[i].Ports, container.Port{
					IP: port.HostIP, PrivatePort: port.ContainerPort + n, PublicPort: port.HostPort + n, Type: port.Protocol,
				})
			}
		}
	}
	return all, nil
}

// destroyOnPodman uses Podman's own API: through Docker's, a removal by force waits for the
// container's stop timeout.
func destroyOnPodman(ctx context.Context, r *Runtime, id string) error {
	return r.askPodman(ctx, http.MethodDelete, "/containers/"+id, url.Values{"force": {"true"}, "v": {"true"}, "timeout": {"0"}}, nil, nil)
}

// podmanInterval is the interval at which Podman checks for a container's exit. Its default
// is 250 ms.
const podmanInterval = "20ms"

func awaitExitOnPodman(ctx context.Context, r *Runtime, id string) (int64, error) {
	var exit container.WaitResponse
	err := r.askJSON(ctx, http.MethodPost, "/v"+r.engine.ClientVersion()+"/containers/"+id+"/wait",
		url.Values{"condition": {string(container.WaitConditionNotRunning)}, "interval": {podmanInterval}}, nil, &exit)
	if err == nil && exit.Error != nil {
		err = podmanError(errors.New(exit.Error.Message))
	}
	return exit.StatusCode, err
}

// awaitFirstExitOnPodman takes the exit code from the event: Podman's own wait polls the
// state and would miss a short life.
func awaitFirstExitOnPodman(ctx context.Context, r *Runtime, id string) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages, failures := r.containerEvents(ctx, id, events.ActionDie)
	found, err := r.inspectContainer(ctx, id)
	if err != nil {
		return 0, err
	}
	if hasRun(found.State) && !found.State.Running {
		return int64(found.State.ExitCode), nil
	}
	for {
		select {
		case message := <-messages:
			if message.Action == events.ActionDie {
				return strconv.ParseInt(message.Actor.Attributes[attributeExitCode], 10, 64)
			}
			return 0, r.confirmRun(ctx, found.ID)
		case err := <-failures:
			return 0, err
		}
	}
}

// removeNetworkOnPodman removes a network by name: by ID Podman also removes a network that
// containers use.
func removeNetworkOnPodman(ctx context.Context, r *Runtime, id string) error {
	found, err := r.engine.NetworkInspect(ctx, id, network.InspectOptions{})
	if err != nil {
		return err
	}
	return r.engine.NetworkRemove(ctx, found.Name)
}

// membersOnPodman also finds stopped containers, which use a network too.
func membersOnPodman(ctx context.Context, r *Runtime, found network.Inspect) (map[string]string, error) {
	using, err := r.engine.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("network", found.Name))})
	members := map[string]string{}
	for _, summary := range using {
		members[summary.ID] = nameOf(summary.Names)
	}
	return members, err
}

func vetTargetOnPodman(r *Runtime, c *call, dir string) error {
	stat, err := r.StatPath(c.ctx, c.object, dir)
	if err == nil && stat.Mode&fs.ModeSymlink != 0 {
		stat, err = r.StatPath(c.ctx, c.object, stat.LinkTarget)
	}
	if err == nil && !stat.Mode.IsDir() {
		err = c.wrong(core.ErrInvalidConfig, "dir", dir+" is not a directory", "")
	}
	return err
}

// podmanLost is a message that Podman writes into a stream, in a frame if the stream has
// frames, when a program ends before Podman's connection to it.
var podmanLost = lazily(`(?s)(?:\x02\x00{6}.)?Error: read unixpacket @->[^\n]*: connection reset by peer\n$`)

func lastWordsOfPodman(data []byte) int {
	if at := podmanLost().FindIndex(data); at != nil {
		return at[0]
	}
	return -1
}

// endingConn drops the engine's own words from the end of a stream.
type endingConn struct {
	hijacked
	lastWords func(data []byte) int
	ready     bytes.Buffer
	held      []byte // possibly such words
	err       error  // after what is ready
}

func (c *endingConn) Read(p []byte) (int, error) {
	for c.ready.Len() == 0 && c.err == nil {
		buffer := make([]byte, demuxBuffer)
		var n int
		n, c.err = c.hijacked.Read(buffer)
		data := slices.Concat(c.held, buffer[:n])
		c.held = nil
		if at := c.lastWords(data); at >= 0 {
			c.held, data = bytes.Clone(data[at:]), data[:at]
		}
		c.ready.Write(data)
	}
	if c.ready.Len() == 0 {
		return 0, c.err
	}
	return c.ready.Read(p)
}

// podmanRefusal matches Podman's message for a program that it could not start in a
// container, with the one for the connection that it then loses.
var podmanRefusal = lazily(`^Error: (?:runc|crun|runsc|/[^ :]*): [^\n]*(?:\n(?:Error: read unixpacket [^\n]*\n?)?)?$`)

func isExecRefusalOfPodman(said []byte) bool {
	const sign = "Error: "
	if len(said) < len(sign) {
		return strings.HasPrefix(sign, string(said))
	}
	return podmanRefusal().Match(said)
}

// podmanUnstarted is the lowest exit code of such a program.
const podmanUnstarted = 125

// isUnstartedOnPodman requires a message about this very program: Podman drops the process
// ID of an ended program, and any program can exit with such a code.
func isUnstartedOnPodman(opts optional.ExecOptions, found container.ExecInspect, said string) bool {
	about := strings.Contains(said, "exec: "+strconv.Quote(opts.Cmd[0])+": ") || strings.Contains(said, "chdir to cwd (")
	return about && !found.Running && found.ExitCode >= podmanUnstarted
}

func isImageGoneOnPodman(err error) bool {
	return strings.Contains(err.Error(), "locating image with ID ") && strings.Contains(err.Error(), "image not known")
}

// openArchiveOnPodman runs the container's own tar, if the container runs and has one: in
// Podman's archives root owns every file.
func openArchiveOnPodman(r *Runtime, c *call, of place, file string) (io.Reader, error) {
	if of.State.Running {
		archive, err := r.tar(c, file, nil)
		if !errors.Is(err, core.ErrUnsupported) {
			return archive, err
		}
	}
	root := path.Clean(file) == "/"
	if root {
		file = "/." // or the archive has absolute names
	}
	archive, stat, err := r.engine.CopyFromContainer(c.ctx, c.object, file)
	if err != nil || !root {
		return archive, err
	}
	var first bytes.Buffer // Podman's archive lacks the directory itself
	header := tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: int64(stat.Mode.Perm()), ModTime: stat.Mtime}
	if err := tar.NewWriter(&first).WriteHeader(&header); err != nil {
		return nil, err
	}
	return io.MultiReader(&first, archive), nil
}

// statOnPodman corrects the name, which for a link is its target's, and removes the target
// that Podman reports of every file.
func statOnPodman(file string, stat optional.PathStat) optional.PathStat {
	stat.Name = path.Base(file)
	if stat.Mode&fs.ModeSymlink == 0 {
		stat.LinkTarget = ""
	}
	return stat
}

func createNetworkOnPodman(ctx context.Context, r *Runtime, c *call, cfg optional.NetworkConfig, options network.CreateOptions) (string, error) {
	if cfg.Isolated {
		return "", c.wrong(core.ErrUnsupported, "Isolated", "Podman's networks let their containers reach each other", "Use a network for each container")
	}
	type subnet struct {
		Subnet string `json:"subnet"`
	}
	request := struct {
		Name       string            `json:"name"`
		Driver     string            `json:"driver"`
		Internal   bool              `json:"internal"`
		DNSEnabled bool              `json:"dns_enabled"`
		Subnets    []subnet          `json:"subnets"`
		Labels     map[string]string `json:"labels"`
		Options    map[string]string `json:"options"`
	}{
		Name: cfg.Name, Driver: options.Driver, Labels: options.Labels,
		Options:  map[string]string{"isolate": "true"}, // from other networks, not Podman's default
		Internal: cfg.Internal,
		// Podman's name server would be a way out: it listens on the host's address on the
		// network and forwards lookups.
		DNSEnabled: !cfg.Internal,
	}
	for _, config := range options.IPAM.Config {
		request.Subnets = append(request.Subnets, subnet{config.Subnet})
	}
	var created struct {
		ID string `json:"id"`
	}
	err := r.askPodman(ctx, http.MethodPost, "/networks/create", nil, request, &created)
	return created.ID, err
}
