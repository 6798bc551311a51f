package docker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

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
	h.config.StopSignal = "SIGKILL" // it ignores others, for which a stopping engine would wait ten seconds
	h.hostConfig.Runtime = plain
	h.hostConfig.CapDrop = []string{"ALL"}
	h.hostConfig.SecurityOpt = append([]string{"no-new-privileges"}, r.seccompOptions()...)
	h.hostConfig.LogConfig = r.kind().logConfig
	if h.hostConfig.PidsLimit == nil {
		threads := int64(helperThreads)
		h.hostConfig.PidsLimit = &threads
	}
	create := func() error {
		if h.config.Image, err = r.programImageID(ctx, h.program, h.binary); err != nil {
			return err
		}
		graced, cancel := withGrace(ctx)
		defer cancel()
		_, err := patiently(graced, func(ctx context.Context) (container.CreateResponse, error) {
			return r.engine.ContainerCreate(ctx, &h.config, &h.hostConfig, h.networking, nil, h.name)
		}, func(ctx context.Context, late container.CreateResponse) { _ = r.kind().destroy(ctx, r, late.ID) })
		return err
	}
	err = create()
	if noSuchImage(err) { // others have removed it since
		r.programImages.Delete(programImage(h.program, h.binary))
		err = create()
	}
	if errdefs.IsConflict(err) {
		return nil // another process created it
	}
	return err
}

// awaitReady waits until a helper has said, in its present run, that it is ready.
//
// The present run's output is the log after the end of the run before. Its first line may
// be older than the start time that the engine reports.
func (r *Runtime) awaitReady(ctx context.Context, running container.InspectResponse) error {
	_, err := r.awaitLine(ctx, running.ID, parseTime(running.State.FinishedAt), func(line string) (bool, error) { return line == "ready", nil })
	return err
}

// awaitLine returns the first line that a helper has said after a time, and for which is
// returns true. An error of is ends the wait, and so does the helper's end: then the error
// is its last line.
func (r *Runtime) awaitLine(ctx context.Context, id string, after time.Time, is func(line string) (bool, error)) (string, error) {
	options := container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true}
	if !after.IsZero() {
		options.Since = after.Format(time.RFC3339Nano)
	}
	body, err := r.engine.ContainerLogs(ctx, id, options)
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
		last = said.Text()
		if found, err := is(last); found || err != nil {
			return last, err
		}
	}
}
