package docker

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moatproject/moat/core"
)

// BuildManager returns the runtime's one build manager. It builds with the BuildKit that
// [Options.BuildKit] names, else with the engine's own, else with the engine's classic
// builder. Another one is tried only where there is no BuildKit, never after a failure.
func (r *Runtime) BuildManager() core.BuildManager { return (*builds)(r) }

// builds is a runtime as a build manager.
type builds Runtime

func (m *builds) BuildImage(ctx context.Context, dockerfile string, tag string, opts core.BuildOptions) error {
	if err := core.ValidateTag(tag); err != nil {
		return err
	}
	if err := opts.Validate(); err != nil {
		return err
	}
	const op = "build image"
	if err := core.ValidateDockerfile(dockerfile); err != nil {
		refused, _ := errors.AsType[*core.Error](err)
		refused.Op, refused.Runtime, refused.Object = op, core.RuntimeDocker, tag
		return refused
	}
	r := (*Runtime)(m)
	c, err := r.begin(ctx, 0, op, tag)
	if err != nil {
		return err
	}
	defer c.end()
	named, err := reference.ParseNormalizedNamed(tag)
	if err != nil {
		return c.failed(err)
	}
	if len(opts.DNS) > 0 {
		return c.wrong(core.ErrUnsupported, "DNS", "builders take their DNS servers from their own settings",
			"Set dns in the engine's daemon.json, or in BuildKit's buildkitd.toml")
	}
	err = runBuild(c.ctx, r.buildRequest(c, dockerfile, reference.TagNameOnly(named).String(), opts))
	if err == nil || c.ctx.Err() != nil {
		return c.failed(err)
	}
	if context, ok := errors.AsType[*build.ContextError](err); ok {
		return &core.Error{
			Op: op, Runtime: core.RuntimeDocker, Object: tag,
			Field: "Context", Class: context.Class, Err: context.Err, Remedy: context.Remedy,
		}
	}
	if why := c.logins.failure(); why != nil {
		return c.failed(why)
	}
	if failure, ok := errors.AsType[*build.StepError](err); ok {
		return r.buildFailure(c, failure)
	}
	return c.failed(err)
}

func (r *Runtime) buildRequest(c *call, dockerfile, tag string, opts core.BuildOptions) build.Request {
	request := build.Request{
		Dockerfile: dockerfile, Tag: tag, Options: opts, BuildKit: r.options.BuildKit, Classic: r.options.ClassicBuilder,
		Engine: build.Engine{
			APIClient:    r.engine,
			DialBuildKit: r.dialBuildKit,
			LinksInside:  r.kind().linksInside,
			ImageMissing: func(ctx context.Context, image string) bool {
				_, err := r.findImage(ctx, image)
				return errors.Is(err, core.ErrNotFound)
			},
		},
	}
	if r.options.Logins != nil {
		request.Engine.Login = func(name string) (registry.AuthConfig, error) {
			login, err := r.login(c, name)
			return login.config(), err
		}
	}
	return request
}

// buildFailure makes a failed step's error of what the builder tells of it.
func (r *Runtime) buildFailure(c *call, failure *build.StepError) error {
	c.step = failure.Name
	err := c.failed(failure)
	failed, ok := errors.AsType[*core.Error](err)
	if !ok {
		return err
	}
	if failed.Remedy == startEngine && r.options.BuildKit != "" {
		failed.Remedy = startBuildKit
	}
	if errors.Is(failed.Class, core.ErrInvalidConfig) && failed.Field != "ContextFiles" {
		failed.Field, failed.Remedy = "Dockerfile", mendDockerfile
	}
	if failure.Line > 0 || failure.Step != "" {
		failed.Err = &core.BuildError{Step: failure.Step, Line: failure.Line, Output: failure.Output, Err: failed.Err}
	}
	return failed
}

// dialBuildKit connects to the BuildKit within the engine.
func (r *Runtime) dialBuildKit(ctx context.Context) (net.Conn, error) {
	conn, err := r.upgrade(ctx, "/grpc", nil, "h2c", nil)
	if err != nil {
		return nil, err
	}
	return engineConn{conn}, nil
}

// engineConn makes a connection within the engine's of an upgraded one. Its user
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

func (m *builds) ImageExists(ctx context.Context, tag string) (bool, error) {
	_, err := (*Runtime)(m).findImage(ctx, tag)
	if errors.Is(err, core.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// findImage describes an image that is there.
func (r *Runtime) findImage(ctx context.Context, name string) (image.InspectResponse, error) {
	c, err := r.call(ctx, "find image", name)
	if err != nil {
		return image.InspectResponse{}, err
	}
	defer c.end()
	// The SDK makes a path of it, in which "../containers/x" would be another object.
	if _, err := reference.ParseAnyReference(name); err != nil {
		return image.InspectResponse{}, c.failed(err)
	}
	found, err := r.engine.ImageInspect(c.ctx, name)
	return found, c.failed(err)
}

// rootHome is the home in doubt.
const rootHome = "/root"

func (m *builds) GetImageHomeDir(ctx context.Context, imageName string) string {
	r := (*Runtime)(m)
	found, err := r.findImage(ctx, imageName)
	if err != nil || found.Config == nil {
		return rootHome
	}
	for _, variable := range found.Config.Env {
		if home, ok := strings.CutPrefix(variable, "HOME="); ok && home != "" {
			return home
		}
	}
	user, _, _ := strings.Cut(found.Config.User, ":")
	if user == "" || user == "root" || user == "0" {
		return rootHome
	}
	return cmp.Or(r.homeIn(ctx, found.ID, user), rootHome)
}

// homeLookup is longer than it takes to read an image's /etc/passwd.
const homeLookup = 10 * time.Minute

// passwdMax bounds what is read of an image's /etc/passwd.
const passwdMax = 1 << 20

// homeIn looks a user up in an image's /etc/passwd, out of a container that never starts.
func (r *Runtime) homeIn(ctx context.Context, imageID, user string) string {
	c, err := r.call(ctx, "read passwd", imageID)
	if err != nil {
		return ""
	}
	defer c.end()
	graced, cancel := withGrace(c.ctx)
	defer cancel()
	config := &container.Config{Image: imageID, Cmd: []string{"none"}, Labels: core.AdapterLabels("", time.Now().Add(homeLookup))}
	created, err := r.engine.ContainerCreate(graced, config, nil, nil, nil, "")
	if err != nil {
		return ""
	}
	defer r.drop(c.ctx, created.ID)
	archive, _, err := r.engine.CopyFromContainer(c.ctx, created.ID, "/etc/passwd")
	if err != nil {
		return ""
	}
	defer archive.Close()
	passwd := tar.NewReader(io.LimitReader(archive, passwdMax))
	if _, err := passwd.Next(); err != nil {
		return ""
	}
	lines := bufio.NewScanner(passwd)
	for lines.Scan() {
		// name:password:uid:gid:comment:home:shell
		if fields := strings.Split(lines.Text(), ":"); len(fields) == 7 && (fields[0] == user || fields[2] == user) {
			return fields[5]
		}
	}
	return ""
}
