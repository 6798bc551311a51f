package gvisor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/moatproject/moat/core"
)

const (
	memoryLimit = 256 << 20        // bytes; the sandbox itself counts too
	outputLimit = 4 << 10          // bytes that are read of a probe's output
	askTimeout  = 10 * time.Second // of a request that an engine answers at once
	runTimeout  = 30 * time.Second // of a container that ends at once

	removeTimeout = 10 * time.Second
	grace         = 300 * time.Millisecond // of the removal after the end of the caller's context
)

// The output of the probe (adapters/docker/programs/source/probe.c) is the utsname, six
// strings of utsField bytes, and the beginning of the kernel's log, nothing where the
// kernel refused it.
const (
	utsField = 65
	utsSize  = 6 * utsField
)

// probeTrace is the directory that the probe makes in its working directory.
const probeTrace = "k"

// errProbeImage marks a failure of the engine, not of the sandbox.
var errProbeImage = errors.New("load the probe image")

// kernel is the answer of the kernel inside a container.
type kernel struct {
	release string // "4.19.0-gvisor"
	log     string // the beginning of its log; empty where it gave none
}

// prober runs probes on an engine.
type prober struct {
	engine client.APIClient
	info   system.Info
}

func newProber(ctx context.Context, engine client.APIClient) (prober, error) {
	bounded, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := engine.Info(bounded)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = &core.Error{
			Op: "ask the engine for its runtimes", Runtime: Type, Object: engine.DaemonHost(),
			Class: core.ErrTimeout, Remedy: "Check that the engine is healthy",
		}
	}
	return prober{engine, info}, err
}

// verify starts the probe under a runtime and checks that its kernel is gVisor's.
func (p prober) verify(ctx context.Context, runtime string) (kernel, error) {
	output, err := p.run(ctx, container.Config{}, container.HostConfig{Runtime: runtime})
	if err != nil {
		return kernel{}, err
	}
	inside, err := parseKernel(output)
	if err != nil {
		return kernel{}, err
	}
	return inside, inside.mustBeGVisor(p.info.KernelVersion)
}

// parseKernel reads the probe's output.
func parseKernel(output []byte) (kernel, error) {
	if len(output) < utsSize {
		return kernel{}, fmt.Errorf("the probe wrote %d bytes instead of %d or more", len(output), utsSize)
	}
	const release = 2 // of the utsname's fields
	text, _, _ := bytes.Cut(output[release*utsField:(release+1)*utsField], []byte{0})
	return kernel{release: string(text), log: string(output[utsSize:])}, nil
}

// mustBeGVisor returns an error unless the kernel is gVisor's: Linux refuses its
// log to the probe, or gives another, and has the host's release.
func (k kernel) mustBeGVisor(hostRelease string) error {
	firstLine, _, _ := strings.Cut(k.log, "\n")
	if strings.Contains(firstLine, "Starting gVisor") && k.release != hostRelease {
		return nil
	}
	return fmt.Errorf("its containers run on Linux %s, not on gVisor", k.release)
}

// run starts the probe image in a container of these settings, removes it, and returns its
// output.
func (p prober) run(caller context.Context, config container.Config, host container.HostConfig) (output []byte, err error) {
	host.ReadonlyRootfs = true
	err = p.runThen(caller, config, host, func(ctx context.Context, name string) error {
		logs, err := p.engine.ContainerLogs(ctx, name, container.LogsOptions{ShowStdout: true})
		if err != nil {
			return err
		}
		defer logs.Close()
		var written bytes.Buffer
		_, err = stdcopy.StdCopy(&written, io.Discard, io.LimitReader(logs, outputLimit))
		output = written.Bytes()
		return err
	})
	return output, err
}

// keeps reports whether the engine sees a file that a container under a runtime has written
// to its root file system.
func (p prober) keeps(caller context.Context, runtime string) (kept bool, err error) {
	asRoot := container.Config{User: "0:0", WorkingDir: "/"}
	err = p.runThen(caller, asRoot, container.HostConfig{Runtime: runtime}, func(ctx context.Context, name string) error {
		_, err := p.engine.ContainerStatPath(ctx, name, "/"+probeTrace)
		kept = err == nil
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	})
	return kept, err
}

// runThen starts the probe image as run does, and calls then once it has ended.
func (p prober) runThen(caller context.Context, config container.Config, host container.HostConfig, then func(ctx context.Context, name string) error) error {
	ctx, cancel := context.WithTimeout(caller, runTimeout)
	defer cancel()
	// By name, because the response with the ID may get lost.
	name := "moat-probe-" + strings.ToLower(rand.Text())
	defer p.remove(caller, name)

	if err := p.create(ctx, name, config, host); err != nil {
		return err
	}
	if err := p.engine.ContainerStart(ctx, name, container.StartOptions{}); err != nil {
		return err
	}
	exited, failed := p.engine.ContainerWait(ctx, name, container.WaitConditionNotRunning)
	select {
	case err := <-failed:
		return err
	case <-exited:
	}
	return then(ctx, name)
}

// probeLifetime is longer than a probe takes.
const probeLifetime = 10 * time.Minute

func (p prober) create(ctx context.Context, name string, config container.Config, host container.HostConfig) error {
	image, err := probeImage(architectureOf(p.info))
	if err != nil {
		return err
	}
	config.Image = image.tag
	config.Labels = core.AdapterLabels("", time.Now().Add(probeLifetime))
	host.NetworkMode = network.NetworkNone
	host.CapDrop = []string{"ALL"}
	host.SecurityOpt = []string{"no-new-privileges"}
	host.Memory, host.MemorySwap = memoryLimit, memoryLimit
	host.LogConfig.Type = "json-file" // the engine's default may be one that cannot be read
	create := func() error {
		// An engine finishes a creation whose caller has gone, and only an existing
		// container can be removed.
		graced, cancel := withGrace(ctx)
		defer cancel()
		_, err := p.engine.ContainerCreate(graced, &config, &host, nil, nil, name)
		return cmp.Or(ctx.Err(), err)
	}
	if err = create(); !errdefs.IsNotFound(err) {
		return err
	}
	// Of two loads at once one may fail, although the image is there.
	loadErr := p.load(ctx, image)
	if err = create(); errdefs.IsNotFound(err) {
		return errors.Join(errProbeImage, cmp.Or(loadErr, err))
	}
	return err
}

// load loads an image. A failure may also come within the response.
func (p prober) load(ctx context.Context, image archive) error {
	response, err := p.engine.ImageLoad(ctx, bytes.NewReader(image.content), client.ImageLoadWithQuiet(true))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	for messages := json.NewDecoder(response.Body); ; {
		var message struct{ Error string }
		switch err := messages.Decode(&message); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case message.Error != "":
			return errors.New(message.Error)
		}
	}
}

// remove removes a probe's container, also after the end of the caller's context.
func (p prober) remove(caller context.Context, name string) {
	timeout := removeTimeout
	if caller.Err() != nil {
		timeout = grace
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(caller), timeout)
	defer cancel()
	// On failure, `moat clean` finds the container by its labels.
	_ = p.engine.ContainerRemove(ctx, name, container.RemoveOptions{Force: true, RemoveVolumes: true})
}

// withGrace returns a context that ends a little after ctx does.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	graced, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return graced, func() { stop(); cancel() }
}

// architectureOf returns the engine's architecture by Go's name.
func architectureOf(info system.Info) string {
	switch info.Architecture {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return info.Architecture
}
