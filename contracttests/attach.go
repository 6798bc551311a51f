package contracttests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/moatproject/moat/core"
)

func attachCases() []Case {
	attaching, terminals := capability("Attach"), capability("TTY")
	return []Case{
		{Number: "RT-100", Title: "attach connects the streams", check: attach, ability: attaching, unsupported: refusedAttach},
		{Number: "RT-101", Title: "attaching to what does not run", check: attachWrongState, ability: attaching, unsupported: refusedAttach},
		{Number: "RT-105", Title: "start attached loses no byte", check: startAttached, ability: attaching, unsupported: refusedStartAttached},
		{
			Number: "RT-106", Title: "starting attached what is missing", check: startAttachedMissing,
			ability: attaching, unsupported: refusedStartAttached,
		},
		{Number: "RT-110", Title: "the process sees the new size", check: resize, ability: terminals, unsupported: refusedResize},
		{Number: "RT-111", Title: "resizing what has no terminal", check: resizeWrongState, ability: terminals, unsupported: refusedResize},
		{Number: "RT-120", Title: "a firewall holds or is refused", check: firewall},
	}
}

func refusedAttach(f *fixture, created string) error {
	return f.rt.Attach(f.ctx, created, core.AttachOptions{})
}

func refusedStartAttached(f *fixture, created string) error {
	return f.rt.StartAttached(f.ctx, created, core.AttachOptions{})
}

func refusedResize(f *fixture, created string) error { return f.rt.ResizeTTY(f.ctx, created, 24, 80) }

// attaching begins to attach.
func (f *fixture) attaching(id string, opts core.AttachOptions) *call[struct{}] {
	return begin("Attach", func() (struct{}, error) { return struct{}{}, f.rt.Attach(f.ctx, id, opts) })
}

func attach(f *fixture) {
	cfg := f.shell(`echo ready; cat; echo error >&2`)
	cfg.Interactive = true
	var stdout, stderr bytes.Buffer
	_, err := f.attaching(f.ready(cfg), core.AttachOptions{Stdin: strings.NewReader("hello\n"), Stdout: &stdout, Stderr: &stderr}).result(f)
	f.must(err)
	want(f, "stdout", stdout.String(), "hello\n")
	want(f, "stderr after the end of stdin", stderr.String(), "error\n")

	_, err = f.attaching(f.ready(cfg), core.AttachOptions{Stdin: strings.NewReader("discarded\n")}).result(f)
	f.must(err)
}

func attachWrongState(f *fixture) {
	f.wantClass("attaching to what is missing", f.rt.Attach(f.ctx, f.missing(), core.AttachOptions{}), core.ErrNotFound)
	id := f.create(f.idle())
	f.wantClass("attaching to what does not run", f.rt.Attach(f.ctx, id, core.AttachOptions{}), core.ErrNotRunning)
}

func startAttached(f *fixture) {
	var expected bytes.Buffer
	const lines = 20_000
	for n := range lines {
		fmt.Fprintln(&expected, n+1)
	}
	id := f.create(f.shell(`seq 1 ` + strconv.Itoa(lines) + `; echo last >&2`))
	var stdout, stderr bytes.Buffer
	_, err := begin("StartAttached", func() (struct{}, error) {
		return struct{}{}, f.rt.StartAttached(f.ctx, id, core.AttachOptions{Stdout: &stdout, Stderr: &stderr})
	}).result(f)
	f.must(err)
	if stdout.String() != expected.String() {
		f.Errorf("stdout: %s", firstDifference(stdout.String(), expected.String()))
	}
	want(f, "stderr", stderr.String(), "last\n")
	want(f, "the exit code", f.wait(id), 0)
}

func startAttachedMissing(f *fixture) {
	f.wantClass("starting attached what is missing", f.rt.StartAttached(f.ctx, f.missing(), core.AttachOptions{}), core.ErrNotFound)
}

func resize(f *fixture) {
	cfg := f.shell(`echo ready; read line; stty size`)
	cfg.Interactive, cfg.TTY = true, true
	id := f.create(cfg)
	stdin, typed := io.Pipe()
	defer typed.Close()
	var screen bytes.Buffer
	attached := begin("StartAttached", func() (struct{}, error) {
		return struct{}{}, f.rt.StartAttached(f.ctx, id, core.AttachOptions{Stdin: stdin, Stdout: &screen, TTY: true})
	})
	f.awaitOutput(id, "ready")
	f.must(f.rt.ResizeTTY(f.ctx, id, 33, 111))
	_, err := io.WriteString(typed, "\n")
	f.must(err)
	_, err = attached.result(f)
	f.must(err)
	if !strings.Contains(screen.String(), "33 111") {
		f.Errorf("after the resize the terminal shows %q", screen.String())
	}
}

func resizeWrongState(f *fixture) {
	f.wantClass("resizing what is missing", f.rt.ResizeTTY(f.ctx, f.missing(), 24, 80), core.ErrNotFound)
	cfg := f.idle()
	f.wantClass("resizing what has no terminal", f.rt.ResizeTTY(f.ctx, f.started(cfg), 24, 80), core.ErrInvalidConfig)
	cfg.TTY = true
	f.wantClass("resizing what does not run", f.rt.ResizeTTY(f.ctx, f.create(cfg), 24, 80), core.ErrNotRunning)
}

func firewall(f *fixture) {
	id := f.create(f.idle())
	for _, proxy := range []struct {
		host string
		port int
	}{{"", 3128}, {"127.0.0.1", 0}, {"127.0.0.1", -1}, {"127.0.0.1", 65536}} {
		err := f.rt.SetupFirewall(f.ctx, id, proxy.host, proxy.port)
		f.wantClass(fmt.Sprintf("a firewall for %q:%d", proxy.host, proxy.port), err, core.ErrInvalidConfig)
	}
	if core.CapabilitiesOf(f.rt).EnforcedEgress {
		f.must(f.rt.SetupFirewall(f.ctx, id, "127.0.0.1", 3128))
		return
	}
	err := f.rt.SetupFirewall(f.ctx, id, "127.0.0.1", 3128)
	if !errors.Is(err, core.ErrUnsupported) && !errors.Is(err, core.ErrPolicyNotEnforced) {
		f.Errorf("a firewall that is not guaranteed returned %v", err)
	}
}
