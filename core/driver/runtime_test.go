package driver

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// fakeDriver has one running container, x.
type fakeDriver struct {
	Driver
	can     optional.Capabilities
	details optional.Details
	infos   []core.Info
	images  []core.ImageInfo
	logs    func(context.Context, optional.LogOptions) error
	wait    func(context.Context) (int64, error)
	calls   []string
}

var errMissing = errors.New("engine: no such thing")

func (d *fakeDriver) called(what, id string) error {
	d.calls = append(d.calls, what)
	if id != "x" {
		return errMissing
	}
	return nil
}

func (d *fakeDriver) Capabilities() optional.Capabilities { return d.can }

func (d *fakeDriver) Classify(failure *core.Error) {
	if errors.Is(failure.Err, errMissing) {
		failure.Class, failure.Remedy = core.ErrNotFound, "Look again"
	}
}

func (d *fakeDriver) Create(context.Context, core.Config) (string, error) {
	return "x", d.called("create", "x")
}

func (d *fakeDriver) Start(_ context.Context, id string) error { return d.called("start", id) }

func (d *fakeDriver) Stop(_ context.Context, id string, timeout time.Duration) error {
	return d.called("stop "+timeout.String(), id)
}

func (d *fakeDriver) Signal(_ context.Context, id string, _ int) error {
	return d.called("signal", id)
}

func (d *fakeDriver) Wait(ctx context.Context, _ string) (int64, error) { return d.wait(ctx) }

func (d *fakeDriver) Remove(_ context.Context, id string) error { return d.called("remove", id) }

func (d *fakeDriver) RemoveImage(_ context.Context, id string) error {
	return d.called("remove image", id)
}

func (d *fakeDriver) Inspect(_ context.Context, id string) (optional.Details, error) {
	return d.details, d.called("inspect", id)
}

func (d *fakeDriver) List(context.Context) ([]core.Info, error) { return d.infos, nil }

func (d *fakeDriver) Images(context.Context) ([]core.ImageInfo, error) { return d.images, nil }

func (d *fakeDriver) Logs(ctx context.Context, _ string, opts optional.LogOptions) error {
	return d.logs(ctx, opts)
}

func (d *fakeDriver) Close() error { return d.called("close", "x") }

// TestRuntimeShapesErrors has the engine's error in it, and what the driver makes of it.
func TestRuntimeShapesErrors(t *testing.T) {
	err := New("fake", &fakeDriver{}).StartContainer(t.Context(), "y")
	failure, ok := errors.AsType[*core.Error](err)
	want := core.Error{Op: "start container", Runtime: "fake", Object: "y", Class: core.ErrNotFound, Err: errMissing, Remedy: "Look again"}
	if !ok || *failure != want {
		t.Errorf("got %#v", err)
	}
}

// TestRuntimeChecksOptions has the driver asked for nothing that is invalid.
func TestRuntimeChecksOptions(t *testing.T) {
	d := &fakeDriver{can: optional.Capabilities{NetworkModes: true}}
	r := New("fake", d)
	create := func(change func(*core.Config)) error {
		cfg := core.Config{Image: "image"}
		change(&cfg)
		_, err := r.CreateContainer(t.Context(), cfg)
		return err
	}
	for name, test := range map[string]struct {
		err   error
		class error
		field string
	}{
		"an image's name":     {create(func(c *core.Config) { c.Image = "" }), core.ErrInvalidConfig, "Image"},
		"mounts":              {create(func(c *core.Config) { c.Mounts = []core.MountConfig{{Source: "/", Target: "/x"}} }), core.ErrUnsupported, "Mounts"},
		"port bindings":       {create(func(c *core.Config) { c.PortBindings = map[int]string{80: "127.0.0.1"} }), core.ErrUnsupported, "PortBindings"},
		"ports":               {create(func(c *core.Config) { c.Ports = []core.PortMapping{{ContainerPort: 80}} }), core.ErrUnsupported, "Ports"},
		"the host's network":  {create(func(c *core.Config) { c.NetworkMode = "host" }), core.ErrUnsupported, "NetworkMode"},
		"hosts":               {create(func(c *core.Config) { c.ExtraHosts = []string{"a:127.0.0.1"} }), core.ErrUnsupported, "ExtraHosts"},
		"DNS":                 {create(func(c *core.Config) { c.DNS = []string{"127.0.0.1"} }), core.ErrUnsupported, "DNS"},
		"capabilities":        {create(func(c *core.Config) { c.CapAdd = []string{"NET_ADMIN"} }), core.ErrUnsupported, "CapAdd"},
		"privileges":          {create(func(c *core.Config) { c.Privileged = true }), core.ErrUnsupported, "Privileged"},
		"a terminal":          {create(func(c *core.Config) { c.TTY = true }), core.ErrUnsupported, "TTY"},
		"a held start":        {create(func(c *core.Config) { c.Held = true }), core.ErrUnsupported, "Held"},
		"memory":              {create(func(c *core.Config) { c.MemoryMB = 64 }), core.ErrUnsupported, "MemoryMB"},
		"CPUs":                {create(func(c *core.Config) { c.CPUs = 1 }), core.ErrUnsupported, "CPUs"},
		"parts of a CPU":      {create(func(c *core.Config) { c.NanoCPUs = 1e8 }), core.ErrUnsupported, "NanoCPUs"},
		"processes":           {create(func(c *core.Config) { c.PidsLimit = 10 }), core.ErrUnsupported, "PidsLimit"},
		"an option as ID":     {r.StartContainer(t.Context(), "--help"), core.ErrInvalidConfig, "id"},
		"a path as ID":        {r.StopContainer(t.Context(), "../x"), core.ErrInvalidConfig, "id"},
		"an option as image":  {r.RemoveImage(t.Context(), "--all"), core.ErrInvalidConfig, "id"},
		"parts of a second":   {r.StopContainerTimeout(t.Context(), "x", time.Millisecond), core.ErrInvalidConfig, "timeout"},
		"a proxy's port":      {r.SetupFirewall(t.Context(), "x", "proxy", 0), core.ErrInvalidConfig, "proxyPort"},
		"a firewall":          {r.SetupFirewall(t.Context(), "x", "proxy", 80), core.ErrUnsupported, ""},
		"what nothing brings": {r.Attach(t.Context(), "x", core.AttachOptions{}), core.ErrUnsupported, ""},
	} {
		if failure, ok := errors.AsType[*core.Error](test.err); !ok || !errors.Is(test.err, test.class) || failure.Field != test.field || failure.Runtime != "fake" {
			t.Errorf("%s: %v", name, test.err)
		}
	}
	if err := r.SignalContainer(t.Context(), "x", 65); core.FieldOf(err) != "signal" {
		t.Errorf("signal 65: %v", err)
	}
	if err := r.SignalContainer(t.Context(), "y", 65); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("signal 65 to a missing container: %v", err)
	}
	if want := []string{"inspect", "inspect"}; !slices.Equal(d.calls, want) {
		t.Errorf("the driver was asked for %q, want %q", d.calls, want)
	}
	if err := create(func(c *core.Config) { c.NetworkMode = "none" }); err != nil {
		t.Errorf("a setting that is supported: %v", err)
	}
}

func TestRuntimeStopsInTime(t *testing.T) {
	d := &fakeDriver{}
	r := New("fake", d)
	if err := errors.Join(r.StopContainer(t.Context(), "x"), r.StopContainerTimeout(t.Context(), "x", time.Second)); err != nil {
		t.Error(err)
	}
	if want := []string{"stop -1ns", "stop 1s"}; !slices.Equal(d.calls, want) {
		t.Errorf("the driver was asked for %q, want %q", d.calls, want)
	}
}

func TestRuntimeRemovesWhatIsMissing(t *testing.T) {
	d := &fakeDriver{}
	r := New("fake", d)
	if err := errors.Join(r.RemoveContainer(t.Context(), "y"), r.RemoveImage(t.Context(), "y")); err != nil || len(d.calls) != 2 {
		t.Errorf("%v, %q", err, d.calls)
	}
}

// TestRuntimeViews has several methods made of one of the driver's.
func TestRuntimeViews(t *testing.T) {
	now := time.Now()
	managed := map[string]string{core.LabelManaged: "true"}
	d := &fakeDriver{
		details: optional.Details{Info: core.Info{Status: core.StateRunning}},
		infos: []core.Info{
			{ID: "old", Created: now, Labels: managed}, {ID: "others", Created: now}, {ID: "new", Created: now.Add(1), Labels: managed},
		},
		images: []core.ImageInfo{{Tag: "moat/b"}, {Tag: "others/a"}, {Tag: "moat/a"}},
	}
	r := New("fake", d)
	if state, err := r.ContainerState(t.Context(), "x"); state != core.StateRunning || err != nil {
		t.Errorf("state %q, %v", state, err)
	}
	if ports, err := r.GetPortBindings(t.Context(), "x"); ports == nil || len(ports) > 0 || err != nil {
		t.Errorf("no ports: %v, %v", ports, err)
	}
	d.details.Ports = map[int]int{80: 8080}
	if ports, err := r.GetPortBindings(t.Context(), "x"); ports[80] != 8080 || err != nil {
		t.Errorf("ports: %v, %v", ports, err)
	}
	d.details.Status = core.StateExited
	if _, err := r.GetPortBindings(t.Context(), "x"); !errors.Is(err, core.ErrNotRunning) {
		t.Errorf("ports of what does not run: %v", err)
	}
	if list, err := r.ListContainers(t.Context()); len(list) != 2 || list[0].ID != "new" || list[1].ID != "old" || err != nil {
		t.Errorf("list: %v, %v", list, err)
	}
	if images, err := r.ListImages(t.Context()); len(images) != 2 || images[0].Tag != "moat/a" || images[1].Tag != "moat/b" || err != nil {
		t.Errorf("images: %v, %v", images, err)
	}
}

// TestRuntimeLogs has three readers of one output.
func TestRuntimeLogs(t *testing.T) {
	d := &fakeDriver{logs: func(_ context.Context, opts optional.LogOptions) error {
		_, _ = io.WriteString(opts.Stdout, "out ")
		_, err := io.WriteString(opts.Stderr, "err ")
		if opts.Follow {
			_, err = io.WriteString(opts.Stdout, "more")
		}
		return err
	}}
	r := New("fake", d)
	if all, err := r.ContainerLogsAll(t.Context(), "x"); string(all) != "out err " || err != nil {
		t.Errorf("all: %q, %v", all, err)
	}
	stream, err := r.ContainerLogs(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(stream); string(all) != "out err more" || err != nil || stream.Close() != nil {
		t.Errorf("followed: %q, %v", all, err)
	}
	if _, err := r.ContainerLogs(t.Context(), "y"); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("following what is missing: %v", err)
	}
	var stdout, stderr strings.Builder
	if err := r.StreamLogs(t.Context(), "x", optional.LogOptions{Stdout: &stdout, Stderr: &stderr}); err != nil || stdout.String() != "out " || stderr.String() != "err " {
		t.Errorf("streams: %q, %q, %v", stdout.String(), stderr.String(), err)
	}
	full := errors.New("full")
	err = r.StreamLogs(t.Context(), "x", optional.LogOptions{Stderr: writerFunc(func([]byte) (int, error) { return 0, full })})
	if failure, ok := errors.AsType[*core.Error](err); !ok || failure.Err != full || failure.Class != nil {
		t.Errorf("a writer's failure: %v", err)
	}
}

// TestRuntimeEndsCalls ends a wait and a stream by their context or by Close, whose
// drivers notice it or not.
func TestRuntimeEndsCalls(t *testing.T) {
	for _, closes := range []bool{false, true} {
		for _, heeds := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				stuck := make(chan struct{})
				block := func(ctx context.Context) error {
					if !heeds {
						<-stuck
					}
					<-ctx.Done()
					return errors.New("the connection is closed")
				}
				d := &fakeDriver{
					wait: func(ctx context.Context) (int64, error) { return 3, block(ctx) },
					logs: func(ctx context.Context, _ optional.LogOptions) error { return block(ctx) },
				}
				r := New("fake", d)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 2)
				go func() {
					_, err := r.WaitContainer(ctx, "x")
					ended <- err
				}()
				stream, err := r.ContainerLogs(ctx, "x")
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					_, err := stream.Read(make([]byte, 1))
					ended <- err
				}()
				synctest.Wait()
				want, start := context.Canceled, time.Now()
				if closes {
					want = core.ErrUnavailable
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				} else {
					cancel()
				}
				for range 2 {
					if err := <-ended; !errors.Is(err, want) || time.Since(start) > time.Second {
						t.Errorf("closed %t, heeds %t: %v after %s", closes, heeds, err, time.Since(start))
					}
				}
				if err := r.StartContainer(ctx, "x"); !errors.Is(err, want) {
					t.Errorf("closed %t: a later call returned %v", closes, err)
				}
				cancel()
				close(stuck)
				if err := errors.Join(stream.Close(), r.Close(), r.Close()); err != nil {
					t.Error(err)
				}
				if want := []string{"inspect", "close"}; !slices.Equal(d.calls, want) {
					t.Errorf("the driver was asked for %q, want %q", d.calls, want)
				}
			})
		}
	}
}

// TestRuntimeLogsAreClosed ends the driver's call, which waits for a reader.
func TestRuntimeLogsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		returned := false
		r := New("fake", &fakeDriver{logs: func(_ context.Context, opts optional.LogOptions) error {
			_, err := io.WriteString(opts.Stdout, "x")
			returned = true
			return err
		}})
		stream, err := r.ContainerLogs(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !returned {
			t.Error("the driver's call goes on")
		}
	})
}

func TestRuntimeTellsDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New("fake", &fakeDriver{wait: func(ctx context.Context) (int64, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.WaitContainer(ctx, "x"); !errors.Is(err, core.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
