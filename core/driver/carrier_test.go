package driver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/moatproject/moat/core"
)

// program is the engine's side of a carrier: it reads its input to the end, and exits
// with 7.
type program struct {
	input io.Reader
	stdin *io.PipeWriter
}

func newProgram() *program {
	reader, writer := io.Pipe()
	return &program{reader, writer}
}

func (p *program) copy(_ context.Context, stdout, _ io.Writer) (int64, error) {
	_, err := io.Copy(stdout, p.input)
	return 7, err
}

func TestCarrierHalfClosesStdin(t *testing.T) {
	p := newProgram()
	var stdout bytes.Buffer
	carrier := Carrier{Caller: core.AttachOptions{Stdin: strings.NewReader("text"), Stdout: &stdout}, Input: p.stdin}
	carrier.Copy = func(ctx context.Context, stdout, stderr io.Writer) (int64, error) {
		code, err := p.copy(ctx, stdout, stderr)
		_, _ = io.WriteString(stdout, " and more")
		return code, err
	}
	code, err := carrier.Run(t.Context())
	if code != 7 || err != nil || stdout.String() != "text and more" {
		t.Errorf("got %d, %v, %q", code, err, stdout.String())
	}
}

// TestCarrierTellsTheFailureOfStdin has the program's code beside it.
func TestCarrierTellsTheFailureOfStdin(t *testing.T) {
	broken := errors.New("broken")
	p := newProgram()
	var stdout bytes.Buffer
	stdin := io.MultiReader(strings.NewReader("text"), iotest.ErrReader(broken))
	carrier := Carrier{Caller: core.AttachOptions{Stdin: stdin, Stdout: &stdout}, Input: p.stdin, Copy: p.copy}
	code, err := carrier.Run(t.Context())
	if _, callers := errors.AsType[*CallerError](err); !callers || !errors.Is(err, broken) || code != 7 || stdout.String() != "text" {
		t.Errorf("got %d, %v, %q", code, err, stdout.String())
	}
}

// TestCarrierPassesOverWhatTheProgramDoesNotRead has a program that closes its input.
func TestCarrierPassesOverWhatTheProgramDoesNotRead(t *testing.T) {
	reader, writer := io.Pipe()
	carrier := Carrier{Caller: core.AttachOptions{Stdin: strings.NewReader("text")}, Input: writer}
	carrier.Copy = func(context.Context, io.Writer, io.Writer) (int64, error) {
		return 0, reader.Close()
	}
	if _, err := carrier.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCarrierWaitsUntilReady has a program that may not be given input yet.
func TestCarrierWaitsUntilReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProgram()
		var read bool
		stdin := iotest.OneByteReader(strings.NewReader("x"))
		carrier := Carrier{Input: p.stdin, Copy: p.copy}
		carrier.Caller.Stdin = readerFunc(func(b []byte) (int, error) {
			read = true
			return stdin.Read(b)
		})
		ready := make(chan error)
		carrier.Ready = func(context.Context) error { return <-ready }
		ended := make(chan error, 1)
		go func() {
			_, err := carrier.Run(t.Context())
			ended <- err
		}()
		synctest.Wait()
		if read {
			t.Error("Stdin was read too early")
		}
		ready <- nil
		if err := <-ended; err != nil || !read {
			t.Errorf("%v; Stdin was read: %t", err, read)
		}
	})
}

func TestCarrierEndsWhereTheProgramIsNeverReady(t *testing.T) {
	refused := errors.New("refused")
	p := newProgram()
	carrier := Carrier{Copy: p.copy, Input: p.stdin, Caller: core.AttachOptions{Stdin: strings.NewReader("text")}}
	carrier.Ready = func(context.Context) error { return refused }
	carrier.Copy = func(ctx context.Context, _, _ io.Writer) (int64, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	if _, err := carrier.Run(t.Context()); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}

// TestCarrierWritersTakeTurns writes from two goroutines.
func TestCarrierWritersTakeTurns(t *testing.T) {
	var both bytes.Buffer // not safe for concurrent use
	carrier := Carrier{Caller: core.AttachOptions{Stdout: &both, Stderr: &both}}
	carrier.Copy = func(_ context.Context, stdout, stderr io.Writer) (int64, error) {
		var writers sync.WaitGroup
		for _, w := range []io.Writer{stdout, stderr} {
			writers.Go(func() {
				for range 100 {
					_, _ = io.WriteString(w, "x")
				}
			})
		}
		writers.Wait()
		return 0, nil
	}
	if _, err := carrier.Run(t.Context()); err != nil || both.Len() != 200 {
		t.Errorf("%v, %d bytes", err, both.Len())
	}
}

// TestCarrierTellsTheFailureOfAWriter has programs that stop at it, exit in spite of it,
// or do not notice.
func TestCarrierTellsTheFailureOfAWriter(t *testing.T) {
	for name, after := range map[string]func(context.Context, error) error{
		"the program stops":     func(_ context.Context, err error) error { return err },
		"the program exits":     func(context.Context, error) error { return nil },
		"the program runs on":   func(ctx context.Context, _ error) error { <-ctx.Done(); return ctx.Err() },
		"another error follows": func(context.Context, error) error { return io.ErrShortWrite },
	} {
		t.Run(name, func(t *testing.T) {
			reader, writer := io.Pipe()
			full := errors.New("full")
			reader.CloseWithError(full)
			carrier := Carrier{Caller: core.AttachOptions{Stderr: writer}}
			carrier.Copy = func(ctx context.Context, _, stderr io.Writer) (int64, error) {
				_, err := io.WriteString(stderr, "x")
				return 0, after(ctx, err)
			}
			_, err := carrier.Run(t.Context())
			if _, callers := errors.AsType[*CallerError](err); !callers || !errors.Is(err, full) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestCarrierEndsWithItsContext has programs that write again, or do not notice.
func TestCarrierEndsWithItsContext(t *testing.T) {
	for name, returns := range map[string]bool{"copying ends": true, "copying goes on": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				written := make(chan error, 1)
				release := make(chan struct{})
				var stdout bytes.Buffer
				carrier := Carrier{Caller: core.AttachOptions{Stdout: &stdout}}
				carrier.Copy = func(ctx context.Context, stdout, _ io.Writer) (int64, error) {
					cancel()
					if !returns {
						<-release
					}
					_, err := io.WriteString(stdout, "late")
					written <- err
					return 0, errors.New("the connection is closed")
				}
				start := time.Now()
				_, err := carrier.Run(ctx)
				if took := time.Since(start); !errors.Is(err, context.Canceled) || took > time.Second {
					t.Errorf("got %v after %s", err, took)
				}
				close(release)
				if err := <-written; err == nil || stdout.Len() > 0 {
					t.Errorf("%q was written later, %v", stdout.String(), err)
				}
			})
		})
	}
}

// TestCarrierWaitsForAWriteInProgress has writers that return, and one that does not.
func TestCarrierWaitsForAWriteInProgress(t *testing.T) {
	for name, test := range map[string]struct{ takes, wantTook time.Duration }{
		"a slow writer":  {grace / 2, grace / 2},
		"a stuck writer": {time.Hour, grace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				carrier := Carrier{Caller: core.AttachOptions{Stdout: writerFunc(func(p []byte) (int, error) {
					cancel()
					<-time.After(test.takes)
					return len(p), nil
				})}}
				carrier.Copy = func(_ context.Context, stdout, _ io.Writer) (int64, error) {
					_, err := io.WriteString(stdout, "x")
					return 0, err
				}
				start := time.Now()
				_, err := carrier.Run(ctx)
				if took := time.Since(start); took != test.wantTook || (test.takes > grace && !errors.Is(err, context.Canceled)) {
					t.Errorf("got %v after %s", err, took)
				}
				<-time.After(test.takes)
			})
		})
	}
}

// TestCarrierWaitsForOthersWrites has a child of the program write when the program exits.
func TestCarrierWaitsForOthersWrites(t *testing.T) {
	full := errors.New("full")
	writing := make(chan struct{})
	carrier := Carrier{Caller: core.AttachOptions{Stdout: writerFunc(func([]byte) (int, error) {
		close(writing)
		<-time.After(grace + 20*time.Millisecond)
		return 0, full
	})}}
	carrier.Copy = func(_ context.Context, stdout, _ io.Writer) (int64, error) {
		go func() { _, _ = io.WriteString(stdout, "x") }()
		<-writing
		return 3, nil
	}
	if code, err := carrier.Run(t.Context()); code != 3 || !errors.Is(err, full) {
		t.Errorf("got %d, %v", code, err)
	}
}

// TestCarrierPrefersItsContextsError has copying end because of the context.
func TestCarrierPrefersItsContextsError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	carrier := Carrier{Copy: func(context.Context, io.Writer, io.Writer) (int64, error) {
		return 0, errors.New("the connection is closed")
	}}
	for range 1000 { // which of the two comes first is a matter of luck
		if _, err := carrier.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}

// TestCarrierDropsWhatIsReadLater has a Read of Stdin in progress at the end.
func TestCarrierDropsWhatIsReadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		typed, keyboard := io.Pipe()
		input := &closableBuffer{}
		carrier := Carrier{Caller: core.AttachOptions{Stdin: typed}, Input: input}
		carrier.Copy = func(ctx context.Context, _, _ io.Writer) (int64, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		ended := make(chan error, 1)
		go func() {
			_, err := carrier.Run(ctx)
			ended <- err
		}()
		_, _ = io.WriteString(keyboard, "seen")
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		_, _ = io.WriteString(keyboard, "lost")
		synctest.Wait()
		if input.String() != "seen" || input.closed {
			t.Errorf("the program got %q; its input is closed: %t", input.String(), input.closed)
		}
	})
}

type closableBuffer struct {
	bytes.Buffer
	closed bool
}

func (b *closableBuffer) Close() error {
	b.closed = true
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestOneWriterForBoth tells one writer from two, which may be of a type that cannot be
// compared.
func TestOneWriterForBoth(t *testing.T) {
	one, other := new(bytes.Buffer), new(bytes.Buffer)
	function := writerFunc(func(p []byte) (int, error) { return len(p), nil })
	for _, test := range []struct {
		stdout, stderr io.Writer
		want           bool
	}{
		{one, one, true}, {nil, nil, true}, {one, other, false}, {one, nil, false}, {nil, one, false}, {function, function, false}, {one, function, false},
	} {
		var same bool
		carrier := Carrier{
			Caller: core.AttachOptions{Stdout: test.stdout, Stderr: test.stderr},
			Copy: func(_ context.Context, stdout, stderr io.Writer) (int64, error) {
				same = stdout == stderr
				return 0, nil
			},
		}
		if _, err := carrier.Run(t.Context()); err != nil || same != test.want {
			t.Errorf("%T and %T are one writer: %t, %v", test.stdout, test.stderr, same, err)
		}
	}
}
