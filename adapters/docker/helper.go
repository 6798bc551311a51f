package docker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
)

// helperSpec describes a container that this adapter makes for itself, of one program. It has no
// sandbox, because the program is ours, and nothing that it does not need.
type helperSpec struct {
	name       string
	program    string // "resolver", which names its image
	binary     []byte
	config     container.Config
	hostConfig container.HostConfig
	networking *network.NetworkingConfig
}

// helperThreads bounds the threads of a small helper. It needs one; the others are for the
// engine's runc, which becomes the helper and dies where it cannot start a thread.
const helperThreads = 32

// createHelper creates a helper, unless another process has.
func (r *Runtime) createHelper(ctx context.Context, h helperSpec) error {
	plain, err := r.plainRuntime(ctx)
	if err != nil {
		return err
	}
	h.config.Image = programImage(h.program, h.binary)
	h.config.StopSignal = "SIGKILL" // it ignores others, for which a stopping engine would wait ten seconds
	h.hostConfig.Runtime = plain
	h.hostConfig.CapDrop = []string{"ALL"}
	h.hostConfig.SecurityOpt = []string{"no-new-privileges"}
	h.hostConfig.LogConfig = r.kind().logConfig
	if h.hostConfig.PidsLimit == nil {
		threads := int64(helperThreads)
		h.hostConfig.PidsLimit = &threads
	}
	create := func() error {
		graced, cancel := withGrace(ctx)
		defer cancel()
		_, err := r.engine.ContainerCreate(graced, &h.config, &h.hostConfig, h.networking, nil, h.name)
		return err
	}
	err = create()
	if noSuchImage(err) {
		if err = r.importProgram(ctx, h.config.Image, h.program, h.binary); err == nil {
			err = create()
		}
	}
	if errdefs.IsConflict(err) {
		return nil // another process created it
	}
	return err
}

// awaitLine returns the first line that a helper has written, in its present run, and that
// begins with a word. Its end without that line is an error with its last line.
//
// The present run's output is the log after the end of the run before. Its first line may
// be older than the start time that the engine reports.
func (r *Runtime) awaitLine(ctx context.Context, running container.InspectResponse, word string) (string, error) {
	options := container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true}
	if !parseTime(running.State.FinishedAt).IsZero() {
		options.Since = running.State.FinishedAt
	}
	body, err := r.engine.ContainerLogs(ctx, running.ID, options)
	if err != nil {
		return "", err
	}
	defer body.Close()
	output, unread := io.Pipe()
	defer func() { _ = output.Close() }()
	go func() { unread.CloseWithError(demultiplex(unread, unread, body)) }()
	var last string
	for said := bufio.NewScanner(output); ; {
		if !said.Scan() {
			return "", errors.Join(errors.New("it has ended: "+last), said.Err())
		}
		if last = said.Text(); last == word || strings.HasPrefix(last, word+" ") {
			return last, nil
		}
	}
}
