package docker

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moatproject/moat/adapters/docker/internal/buildcontext"
	"github.com/moatproject/moat/core"
	buildkit "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	failures "github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"
)

// errNoBuildKit is an engine without one.
var errNoBuildKit = errors.New("the engine has no BuildKit")

// dockerfileName is what a build's Dockerfile is called. It lies beside the context.
const dockerfileName = "Dockerfile"

// onEngine builds with the BuildKit within the engine, which keeps the image itself.
func (b *build) onEngine() error {
	first, err := b.runtime.dialBuildKit(b.ctx)
	if errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) {
		return errNoBuildKit
	}
	if err != nil {
		return err
	}
	builder, err := buildkit.New(b.ctx, "", buildkit.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		if conn := first; conn != nil {
			first = nil
			return conn, nil
		}
		return b.runtime.dialBuildKit(b.ctx)
	}))
	if err != nil {
		first.Close()
		return err
	}
	defer func() { _ = builder.Close() }()
	return b.solve(builder, buildkit.ExportEntry{Type: "moby", Attrs: map[string]string{"name": b.tag}}, nil)
}

// dialBuildKit connects to the BuildKit within the engine.
func (r *Runtime) dialBuildKit(ctx context.Context) (net.Conn, error) {
	conn, err := r.upgrade(ctx, "/grpc", nil, "h2c", nil)
	if err != nil {
		return nil, err
	}
	return engineConn{conn}, nil
}

// engineConn makes a connection within the engine's of an upgraded one. Whoever uses it
// closes it: it needs no deadlines.
type engineConn struct{ hijacked }

func (engineConn) LocalAddr() net.Addr              { return engineAddr{} }
func (engineConn) RemoteAddr() net.Addr             { return engineAddr{} }
func (engineConn) SetDeadline(time.Time) error      { return nil }
func (engineConn) SetReadDeadline(time.Time) error  { return nil }
func (engineConn) SetWriteDeadline(time.Time) error { return nil }

type engineAddr struct{}

func (engineAddr) Network() string { return "unix" }
func (engineAddr) String() string  { return "engine" }

// onBuildKit builds with a BuildKit beside the engine, and loads the image into it.
func (b *build) onBuildKit(address string) error {
	builder, err := buildkit.New(b.ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = builder.Close() }()
	version, err := b.runtime.engine.ServerVersion(b.ctx)
	if err != nil {
		return err
	}
	loaded := make(chan error, 1)
	loading := false
	image, archive := io.Pipe()
	err = b.solve(builder, buildkit.ExportEntry{
		Type:  buildkit.ExporterDocker,
		Attrs: map[string]string{"name": b.tag},
		Output: func(map[string]string) (io.WriteCloser, error) {
			loading = true
			go func() {
				err := b.load(image)
				loaded <- err
				image.CloseWithError(err)
			}()
			return archive, nil
		},
	}, map[string]string{"platform": version.Os + "/" + version.Arch})
	if !loading {
		return err
	}
	if err == nil {
		return <-loaded
	}
	select {
	case failure := <-loaded: // it was what the engine did with the image
		return cmp.Or(failure, err)
	default:
		archive.CloseWithError(err)
		return cmp.Or(err, <-loaded) // err, once what it has ended is over
	}
}

func (b *build) load(archive io.Reader) error {
	response, err := b.runtime.engine.ImageLoad(b.ctx, archive)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return readPull(response.Body, b.tag, nil)
}

// solve runs the build.
func (b *build) solve(builder *buildkit.Client, export buildkit.ExportEntry, attributes map[string]string) error {
	files, ignored, err := b.context()
	if err != nil {
		return err
	}
	dockerfile := map[string][]byte{dockerfileName: []byte(b.dockerfile)}
	if ignored != nil {
		dockerfile[dockerfileName+buildcontext.IgnoreFile] = ignored // it goes before the context's own
	}
	if attributes == nil {
		attributes = map[string]string{}
	}
	attributes["filename"] = dockerfileName
	if b.opts.NoCache {
		attributes["no-cache"] = ""
	}
	for name, value := range b.opts.Args {
		attributes["build-arg:"+name] = value
	}
	for key, value := range b.opts.ImageLabels() {
		attributes["label:"+key] = value
	}
	logins, err := newLoginServer(b)
	if err != nil {
		return err
	}
	statuses := make(chan *buildkit.SolveStatus)
	progress := solveProgress{sink: b.opts.Progress, steps: map[digest.Digest]*solveStep{}}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		for status := range statuses {
			progress.show(status)
		}
	}()
	_, err = builder.Solve(b.ctx, nil, buildkit.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attributes,
		// As LocalMounts they would be looked at before they are filtered.
		Session: []session.Attachable{logins, filesync.NewFSSyncProvider(filesync.StaticDirSource{
			"context": files, "dockerfile": buildcontext.Of(dockerfile, b.unread),
		})},
		SharedKey: buildcontext.SharedKey(dockerfile, b.opts),
		Exports:   []buildkit.ExportEntry{export},
	}, statuses)
	<-shown
	if err != nil {
		return b.solveFailure(err, &progress)
	}
	return nil
}

// solveFailure finds the step that failed.
func (b *build) solveFailure(err error, progress *solveProgress) error {
	line := 0
	for _, source := range failures.Sources(err) {
		if len(source.Ranges) > 0 {
			line = int(source.Ranges[0].Start.Line)
		}
	}
	step := progress.failed(err)
	return b.failure(errgrpc.ToNative(err), line, step.name, tailOf(step.output))
}

// solveProgress tells a sink what BuildKit tells of its steps.
type solveProgress struct {
	sink        core.BuildSink
	steps       map[digest.Digest]*solveStep
	firstFailed *solveStep
}

type solveStep struct {
	number int
	name   string
	status core.BuildStatus
	output []byte // its end
}

// failed returns the step that an error is about: where it does not tell, the first that
// has failed, which others may have been cancelled for.
func (p *solveProgress) failed(err error) *solveStep {
	if vertex, ok := errors.AsType[*failures.VertexError](err); ok {
		if step := p.steps[digest.Digest(vertex.Digest)]; step != nil {
			return step
		}
	}
	return cmp.Or(p.firstFailed, &solveStep{})
}

func (p *solveProgress) show(status *buildkit.SolveStatus) {
	for _, vertex := range status.Vertexes {
		if vertex.Started == nil {
			continue
		}
		step := p.steps[vertex.Digest]
		if step == nil {
			step = &solveStep{number: len(p.steps) + 1, name: vertex.Name}
			p.steps[vertex.Digest] = step
		}
		p.turn(step, statusOf(vertex))
	}
	for _, log := range status.Logs {
		if step := p.steps[log.Vertex]; step != nil {
			step.output = append(step.output, log.Data...)
			step.output = step.output[max(0, len(step.output)-outputMax-1):]
			p.tell(step, core.BuildProgress{Output: log.Data})
		}
	}
	for _, transfer := range status.Statuses {
		if step := p.steps[transfer.Vertex]; step != nil && step.status == core.BuildRunning {
			p.tell(step, core.BuildProgress{Detail: transfer.ID, Current: transfer.Current, Total: transfer.Total})
		}
	}
}

// turn tells a step's new status. Short steps are heard of only when they have ended.
func (p *solveProgress) turn(step *solveStep, status core.BuildStatus) {
	if step.status == status {
		return
	}
	if status != core.BuildRunning && step.status != core.BuildRunning {
		p.turn(step, core.BuildRunning)
	}
	step.status = status
	if status == core.BuildFailed && p.firstFailed == nil {
		p.firstFailed = step
	}
	p.tell(step, core.BuildProgress{})
}

func statusOf(vertex *buildkit.Vertex) core.BuildStatus {
	switch {
	case vertex.Error != "":
		return core.BuildFailed
	case vertex.Completed == nil:
		return core.BuildRunning
	case vertex.Cached:
		return core.BuildCached
	}
	return core.BuildDone
}

func (p *solveProgress) tell(step *solveStep, event core.BuildProgress) {
	if p.sink != nil {
		event.Step, event.Name, event.Status = step.number, step.name, step.status
		p.sink(event)
	}
}
