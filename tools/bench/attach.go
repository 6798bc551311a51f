package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/docker/docker/pkg/stdcopy"
	"github.com/moatproject/moat/core"
)

// attachment is a container's stdin and stdout, by Moat or by the raw API.
type attachment struct {
	io.Writer
	io.Reader
	end func() error
}

// attaching starts a script, attached to in one of the ways that are compared.
type attaching func(ctx context.Context, script string) (*attachment, error)

// attached hands use one attachment to a script for each way, and ends them.
func attached(ctx context.Context, script string, ways []attaching, use func([]*attachment) error) (err error) {
	var opened []*attachment
	defer func() {
		for _, a := range opened {
			err = errors.Join(err, a.end())
		}
	}()
	for _, way := range ways {
		a, err := way(ctx, script)
		if err != nil {
			return err
		}
		opened = append(opened, a)
	}
	return use(opened)
}

// attachedBy is the way of a command line, whose arguments end with the container.
func (b *bench) attachedBy(name string, args ...string) attaching {
	return func(ctx context.Context, script string) (*attachment, error) {
		id, err := b.interactive(ctx, script)
		if err != nil {
			return nil, err
		}
		if err := b.raw.start(ctx, id); err != nil {
			return nil, err
		}
		command := b.process(ctx, name, append(slices.Clone(args), id)...)
		var said bytes.Buffer
		command.Stderr = &said
		stdin, err := command.StdinPipe()
		if err != nil {
			return nil, err
		}
		stdout, err := command.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := command.Start(); err != nil {
			return nil, err
		}
		return &attachment{stdin, stdout, func() error {
			_ = stdin.Close()
			err := command.Wait()
			if err != nil {
				err = fmt.Errorf("%s: %w: %s", name, err, said.String())
			}
			return errors.Join(err, b.raw.remove(ctx, id))
		}}, nil
	}
}

func (b *bench) attachedByMoat() attaching { return b.attachedBy(b.moat(), "--no-sandbox", "attach") }

func (b *bench) attachedByDocker() attaching { return b.attachedBy("docker", "attach") }

func (b *bench) interactive(ctx context.Context, script string) (string, error) {
	cfg := b.config("sh", "-c", script)
	cfg.Interactive = true
	return b.plain.CreateContainer(ctx, cfg)
}

func (b *bench) moatAttachment(ctx context.Context, script string) (*attachment, error) {
	id, err := b.interactive(ctx, script)
	if err != nil {
		return nil, err
	}
	stdin, typed := io.Pipe()
	written, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := b.plain.StartAttached(ctx, id, core.AttachOptions{Stdin: stdin, Stdout: stdout})
		stdout.CloseWithError(errors.Join(err, io.EOF))
		ended <- err
	}()
	return &attachment{typed, written, func() error {
		_ = typed.Close()
		return errors.Join(<-ended, b.plain.RemoveContainer(ctx, id))
	}}, nil
}

func (b *bench) rawAttachment(ctx context.Context, script string) (*attachment, error) {
	id, err := b.interactive(ctx, script)
	if err != nil {
		return nil, err
	}
	conn, err := b.raw.attach(ctx, id, "stdin=1&stdout=1")
	if err != nil {
		return nil, err
	}
	written, stdout := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(stdout, io.Discard, conn)
		stdout.CloseWithError(errors.Join(err, io.EOF))
	}()
	return &attachment{conn, written, func() error { return errors.Join(conn.Close(), b.raw.remove(ctx, id)) }}, b.raw.start(ctx, id)
}

const echoGate = time.Millisecond

// attachEcho measures how long a line takes to a program and back.
func attachEcho(ctx context.Context, b *bench) (result, error) {
	times, err := b.echo(ctx, b.moatAttachment, b.rawAttachment, b.attachedByDocker())
	if err != nil {
		return result{}, err
	}
	found := atMost(times[0], times[1], "raw API and stdcopy", echoGate)
	return found.and(atMost(times[0], times[2], "docker attach", echoGate), "the same"), nil
}

func cliEcho(ctx context.Context, b *bench) (result, error) {
	times, err := b.echo(ctx, b.attachedByMoat(), b.attachedByDocker())
	if err != nil {
		return result{}, err
	}
	return atMost(times[0], times[1], "docker attach", echoGate), nil
}

func (b *bench) echo(ctx context.Context, ways ...attaching) (times [][]time.Duration, err error) {
	err = attached(ctx, "exec cat", ways, func(opened []*attachment) error {
		times, err = b.inTurns(1000, each(opened, func(a *attachment) error {
			if _, err := io.WriteString(a, line); err != nil {
				return err
			}
			_, err := io.CopyN(io.Discard, a, int64(len(line)))
			return err
		})...)
		return err
	})
	return times, err
}

// outputSize is how much output comes in a round. Eight rounds are 256 MB.
const (
	outputSize   = 32_000_000
	outputRounds = 8
)

// attachOutput measures how fast much output comes.
func attachOutput(ctx context.Context, b *bench) (result, error) {
	times, err := b.output(ctx, b.moatAttachment, b.rawAttachment, b.attachedByDocker())
	if err != nil {
		return result{}, err
	}
	found := asFast(times[0], times[1], "raw API and stdcopy", "MB", outputSize/1e6)
	return found.and(asFast(times[0], times[2], "docker attach", "MB", outputSize/1e6), "the same"), nil
}

func cliOutput(ctx context.Context, b *bench) (result, error) {
	times, err := b.output(ctx, b.attachedByMoat(), b.attachedByDocker())
	if err != nil {
		return result{}, err
	}
	return asFast(times[0], times[1], "docker attach", "MB", outputSize/1e6), nil
}

func (b *bench) output(ctx context.Context, ways ...attaching) (times [][]time.Duration, err error) {
	script := fmt.Sprintf("while read line; do head -c %d /dev/zero; done", outputSize)
	err = attached(ctx, script, ways, func(opened []*attachment) error {
		times, err = b.inTurns(outputRounds, each(opened, func(a *attachment) error {
			if _, err := io.WriteString(a, "\n"); err != nil {
				return err
			}
			_, err := io.CopyN(io.Discard, a, outputSize)
			return err
		})...)
		return err
	})
	return times, err
}

// each returns the sides of a row that do the same by each attachment.
func each(attachments []*attachment, do func(*attachment) error) (sides []func() error) {
	for _, a := range attachments {
		sides = append(sides, func() error { return do(a) })
	}
	return sides
}
