package builder

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moatproject/moat/adapters/docker/internal/builder/buildcontext"
	"github.com/moatproject/moat/adapters/docker/internal/message"
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
func (r *run) onEngine() error {
	first, err := r.Engine.DialBuildKit(r.ctx)
	if errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) {
		return errNoBuildKit
	}
	if err != nil {
		return err
	}
	builder, err := buildkit.New(r.ctx, "", buildkit.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		if conn := first; conn != nil {
			first = nil
			return conn, nil
		}
		return r.Engine.DialBuildKit(r.ctx)
	}))
	if err != nil {
		first.Close()
		return err
	}
	defer func() { _ = builder.Close() }()
	return r.solve(builder, buildkit.ExportEntry{Type: "moby", Attrs: map[string]string{"name": r.Tag}}, nil)
}

// onBuildKit builds with a BuildKit beside the engine, and loads the image into it.
func (r *run) onBuildKit(address string) error {
	builder, err := buildkit.New(r.ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = builder.Close() }()
	version, err := r.Engine.ServerVersion(r.ctx)
	if err != nil {
		return err
	}
	loaded := make(chan error, 1)
	loading := false
	image, archive := io.Pipe()
	err = r.solve(builder, buildkit.ExportEntry{
		Type:  buildkit.ExporterDocker,
		Attrs: map[string]string{"name": r.Tag},
		Output: func(map[string]string) (io.WriteCloser, error) {
			loading = true
			go func() {
				err := r.load(image)
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

func (r *run) load(archive io.Reader) error {
	response, err := r.Engine.ImageLoad(r.ctx, archive)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return message.ReadPull(response.Body, r.Tag, nil)
}

// solve runs the build.
func (r *run) solve(builder *buildkit.Client, export buildkit.ExportEntry, attributes map[string]string) error {
	files, ignored, err := r.context()
	if err != nil {
		return err
	}
	dockerfile := map[string][]byte{dockerfileName: []byte(r.Dockerfile)}
	if ignored != nil {
		dockerfile[dockerfileName+buildcontext.IgnoreFile] = ignored // it goes before the context's own
	}
	if attributes == nil {
		attributes = map[string]string{}
	}
	attributes["filename"] = dockerfileName
	if r.Options.NoCache {
		attributes["no-cache"] = ""
	}
	for name, value := range r.Options.Args {
		attributes["build-arg:"+name] = value
	}
	for key, value := range r.Options.ImageLabels() {
		attributes["label:"+key] = value
	}
	logins, err := newLoginServer(r)
	if err != nil {
		return err
	}
	statuses := make(chan *buildkit.SolveStatus)
	progress := solveProgress{sink: r.Options.Progress, steps: map[digest.Digest]*solveStep{}}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		for status := range statuses {
			progress.show(status)
		}
	}()
	_, err = builder.Solve(r.ctx, nil, buildkit.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attributes,
		// As LocalMounts they would be looked at before they are filtered.
		Session: []session.Attachable{logins, filesync.NewFSSyncProvider(filesync.StaticDirSource{
			"context": files, "dockerfile": buildcontext.Of(dockerfile, r.unread),
		})},
		SharedKey: buildcontext.SharedKey(dockerfile, r.Options),
		Exports:   []buildkit.ExportEntry{export},
	}, statuses)
	<-shown
	if err != nil {
		return r.solveFailure(err, &progress)
	}
	return nil
}

// solveFailure finds the step that failed.
func (r *run) solveFailure(err error, progress *solveProgress) error {
	line := 0
	for _, source := range failures.Sources(err) {
		if len(source.Ranges) > 0 {
			line = int(source.Ranges[0].Start.Line)
		}
	}
	step := progress.failed(err)
	return NewStepError(r.Dockerfile, errgrpc.ToNative(err), line, step.name, tailOf(step.output))
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
