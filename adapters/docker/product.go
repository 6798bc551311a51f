package docker

import (
	"archive/tar"
	"context"
	"io"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// unjoined begins the key of an endpoint that its container has not joined yet, in a
// network's description, in the place of that container's ID.
const unjoined = "ep-"

// product has the differences between engines that speak Docker's API. Each thing that this
// adapter does differently for one of them is a field.
type product struct {
	name      string // the name for people
	logConfig container.LogConfig

	// filters are further names of an event in a request for events.
	filters map[events.Action][]string

	hostTimeout time.Duration // of requests of methods without a context
	halfCloses  bool          // the end of an attachment always closes the container's stdin

	// attachToLog attaches without Stdin by reading the log, because the end of an
	// attachment would close the container's stdin. nil: not needed.
	attachToLog func(r *Runtime, c *call) (hijacked, error)

	// noSandbox is the reason why the engine cannot run sandboxed containers, or empty.
	noSandbox string

	// noEgress is the reason why the engine has no restricted networks, or empty.
	noEgress string

	takesSeccomp bool // a seccomp profile in a request for a container

	// fit adapts a request for a container to the engine, and refuses settings that the
	// engine would ignore.
	fit func(r *Runtime, c *call, cfg core.Config, joined network.Inspect, asked *request) error

	// destroy kills a container and removes it with its anonymous volumes.
	destroy func(ctx context.Context, r *Runtime, id string) error

	// awaitExit returns the exit code of a container that has been started.
	awaitExit func(ctx context.Context, r *Runtime, id string) (int64, error)

	// awaitFirstExit is awaitExit for a container that may not have been started yet.
	awaitFirstExit func(ctx context.Context, r *Runtime, id string) (int64, error)

	// resizeTries bounds the attempts to resize the terminal of an exec. On some engines it
	// does not exist yet when the request to start the exec has been answered.
	resizeTries int

	// dropsSizes tells that of two sizes of a terminal in quick succession the second may
	// be dropped.
	dropsSizes bool

	// lastWords returns the index of the engine's own words at the end of a stream's data,
	// or -1. nil: the engine writes none.
	lastWords func(data []byte) int

	// execRefusal reports whether output may be the engine's message about an exec that it
	// could not start.
	execRefusal func(said []byte) bool

	// refusesOnStderr says that this message comes on stderr, not on stdout.
	refusesOnStderr bool

	// unstarted reports whether the engine's description of the exec proves such a message.
	unstarted func(opts optional.ExecOptions, found container.ExecInspect, said string) bool

	// imageGone reports whether a list of images failed because one was removed meanwhile.
	imageGone func(err error) bool

	// list returns all containers, the newest first.
	list func(ctx context.Context, r *Runtime) ([]container.Summary, error)

	// openLogs opens a container's log, as the engine sends it.
	openLogs func(r *Runtime, c *call, request container.LogsOptions, tty bool) (io.Reader, error)

	// familiar returns an image's name in its short form.
	familiar func(name string) string

	// createNetwork creates a network, or refuses options that the engine cannot honour.
	createNetwork func(ctx context.Context, r *Runtime, c *call, cfg optional.NetworkConfig, options network.CreateOptions) (id string, err error)

	// removeNetwork removes a network that no container uses.
	removeNetwork func(ctx context.Context, r *Runtime, id string) error

	// members returns the names of the containers that keep a network from being removed, by ID
	// or, while they are being started, by name.
	members func(ctx context.Context, r *Runtime, found network.Inspect) (map[string]string, error)

	// headers rewrite an archive's headers for an engine that would not unpack them
	// exactly.
	headers []func(*tar.Header)

	// vetTarget refuses a missing target directory that the engine would create.
	vetTarget func(r *Runtime, c *call, dir string) error

	linksInside bool // its builder takes no symbolic link that leads out of the context

	// openArchive opens a path of a container without a sandbox, as an archive.
	openArchive func(r *Runtime, c *call, of place, file string) (io.Reader, error)

	// statOf corrects the engine's description of a path.
	statOf func(file string, stat optional.PathStat) optional.PathStat
}

var dockerEngine = product{
	name: "Docker Engine",
	// At least the last 64 MB of output are kept, and at most twice that. Unlike json-file,
	// this driver keeps bytes unchanged.
	logConfig: container.LogConfig{
		Type:   "local",
		Config: map[string]string{"max-size": "64m", "max-file": "2", "compress": "false"},
	},
	hostTimeout:  2 * time.Second,
	takesSeccomp: true,
	fit:          func(*Runtime, *call, core.Config, network.Inspect, *request) error { return nil },
	destroy: func(ctx context.Context, r *Runtime, id string) error {
		return r.engine.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	},
	awaitExit: func(ctx context.Context, r *Runtime, id string) (int64, error) {
		return receive(r.engine.ContainerWait(ctx, id, container.WaitConditionNotRunning))
	},
	awaitFirstExit: awaitNextExit,
	createNetwork: func(ctx context.Context, r *Runtime, _ *call, cfg optional.NetworkConfig, options network.CreateOptions) (string, error) {
		if cfg.Isolated {
			options.Options[optionICC] = "false"
		}
		if cfg.Internal {
			options.Options[optionNoHost] = "true" // the host would be a way out
		}
		created, err := r.engine.NetworkCreate(ctx, cfg.Name, options)
		return created.ID, err
	},
	removeNetwork: func(ctx context.Context, r *Runtime, id string) error { return r.engine.NetworkRemove(ctx, id) },
	members: func(_ context.Context, _ *Runtime, found network.Inspect) (map[string]string, error) {
		members := map[string]string{}
		for id, endpoint := range found.Containers {
			if strings.HasPrefix(id, unjoined) {
				id = endpoint.Name // whose container is being started: a request to it waits for that
			}
			members[id] = endpoint.Name
		}
		return members, nil
	},
	openLogs: func(r *Runtime, c *call, request container.LogsOptions, _ bool) (io.Reader, error) {
		return r.engine.ContainerLogs(c.ctx, c.object, request)
	},
	familiar: func(name string) string { return name },
	list: func(ctx context.Context, r *Runtime) ([]container.Summary, error) {
		return r.engine.ContainerList(ctx, container.ListOptions{All: true})
	},
	execRefusal: isExecRefusal,
	// A program that was started has had a process ID.
	unstarted: func(_ optional.ExecOptions, found container.ExecInspect, _ string) bool {
		return found.Pid == 0 && !found.Running
	},
	imageGone: func(error) bool { return false },
	openArchive: func(r *Runtime, c *call, _ place, file string) (io.Reader, error) {
		if path.Clean(file) == "/" {
			file = "/." // or the archive has absolute names
		}
		archive, _, err := r.engine.CopyFromContainer(c.ctx, c.object, file)
		return archive, err
	},
	vetTarget: func(*Runtime, *call, string) error { return nil },
	statOf:    func(_ string, stat optional.PathStat) optional.PathStat { return stat },
}

// pinger is the SDK's transport. It learns the product from the response to a ping, without
// a further request.
type pinger struct {
	http.RoundTripper
	product *atomic.Pointer[product]
}

func (p pinger) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := p.RoundTripper.RoundTrip(request)
	if err == nil && strings.HasSuffix(request.URL.Path, "/_ping") {
		answering := &dockerEngine
		if response.Header.Get(podmanHeader) != "" {
			answering = &podman
		}
		p.product.Store(answering)
	}
	return response, err
}

// kind returns the engine's product, as of its last response to a ping.
func (r *Runtime) kind() *product { return r.product.Load() }
