package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// attachments starts a script twice, attached by each side.
func (b *bench) attachments(ctx context.Context, script string) (moat, raw *attachment, err error) {
	if moat, err = b.moatAttachment(ctx, script); err != nil {
		return nil, nil, err
	}
	if raw, err = b.rawAttachment(ctx, script); err != nil {
		return nil, nil, errors.Join(err, moat.end())
	}
	return moat, raw, nil
}

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
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker"+apiVersion+"/containers/"+id+"/attach?stream=1&stdin=1&stdout=1", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "tcp")
	response, err := b.raw.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		return nil, fmt.Errorf("attach: %s", response.Status)
	}
	conn := response.Body.(io.ReadWriteCloser) // as net/http promises
	written, stdout := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(stdout, io.Discard, conn)
		stdout.CloseWithError(errors.Join(err, io.EOF))
	}()
	return &attachment{conn, written, func() error { return errors.Join(conn.Close(), b.raw.remove(ctx, id)) }}, b.raw.start(ctx, id)
}

// attachEcho measures how long a line takes to a program and back.
func attachEcho(ctx context.Context, b *bench) (found result, err error) {
	moat, raw, err := b.attachments(ctx, "exec cat")
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, moat.end(), raw.end()) }()
	echo := func(a *attachment) func() error {
		answer := make([]byte, len(line))
		return func() error {
			if _, err := io.WriteString(a, line); err != nil {
				return err
			}
			_, err := io.ReadFull(a, answer)
			return err
		}
	}
	times, err := b.inTurns(1000, echo(moat), echo(raw))
	if err != nil {
		return result{}, err
	}
	return atMost(times[0], times[1], "raw API and stdcopy", time.Millisecond), nil
}

// attachOutput measures how fast much output comes: 32 MB in each of the rounds.
func attachOutput(ctx context.Context, b *bench) (found result, err error) {
	const size = 32_000_000
	moat, raw, err := b.attachments(ctx, fmt.Sprintf("while read line; do head -c %d /dev/zero; done", size))
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, moat.end(), raw.end()) }()
	output := func(a *attachment) func() error {
		return func() error {
			if _, err := io.WriteString(a, "\n"); err != nil {
				return err
			}
			_, err := io.CopyN(io.Discard, a, size)
			return err
		}
	}
	times, err := b.inTurns(8, output(moat), output(raw))
	if err != nil {
		return result{}, err
	}
	return asFast(times[0], times[1], "raw API and stdcopy", "MB", size/1e6), nil
}
