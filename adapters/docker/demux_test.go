package docker

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/docker/docker/pkg/stdcopy"
)

// writes records what each Write was given, by stream.
type writes struct {
	all  *[]string
	name string
}

func (w writes) Write(p []byte) (int, error) {
	*w.all = append(*w.all, w.name+" "+string(p))
	return len(p), nil
}

func TestNeighbouringFramesAreOneWrite(t *testing.T) {
	src := slices.Concat(
		frame(streamStdout, "a"), frame(streamStdout, ""), frame(streamStdin, ""), frame(streamStdout, "b"),
		frame(streamStderr, "c"), frame(streamStderr, "d"), frame(streamStdout, "e"))
	var got []string
	if err := demultiplex(writes{&got, "out"}, writes{&got, "err"}, bytes.NewReader(src)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"out a", "out b", "err cd", "out e"}; !slices.Equal(got, want) {
		t.Errorf("the writes are %q, want %q", got, want)
	}
}

func TestDemultiplex(t *testing.T) {
	hostile := []byte{streamStdout, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 'x'}
	long := strings.Repeat("0123456789", 3*demuxBuffer/10)
	for name, test := range map[string]struct {
		src     []byte
		inOrder string
		err     error // errAny for whatever
	}{
		"nothing":                  {nil, "", nil},
		"an empty frame":           {frame(streamStdout, ""), "", nil},
		"all streams":              {slices.Concat(frame(streamStdin, "0"), frame(streamStdout, "1"), frame(streamStderr, "2")), "012", nil},
		"longer than the buffer":   {slices.Concat(frame(streamStdout, long), frame(streamStderr, "!")), long + "!", nil},
		"a header cut short":       {append(frame(streamStdout, "a"), 1, 0, 0), "a", io.ErrUnexpectedEOF},
		"a payload cut short":      {frame(streamStdout, "abc")[:10], "ab", io.ErrUnexpectedEOF},
		"a hostile length":         {hostile, "x", io.ErrUnexpectedEOF},
		"an unknown stream":        {slices.Concat(frame(streamStdout, "a"), frame(4, "b")), "a", errAny},
		"plain text":               {[]byte("plain text"), "", errAny},
		"an error of the engine's": {slices.Concat(frame(streamStdout, "a"), frame(streamSystem, "on fire"), frame(streamStdout, "b")), "a", errEngineStream},
		"an empty one":             {frame(streamSystem, ""), "", errEngineStream},
		"an endless one":           {frame(streamSystem, strings.Repeat("x", 10*systemErrorMax)), "", errEngineStream},
	} {
		for how, reader := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with the end": iotest.DataErrReader,
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				var both bytes.Buffer
				for way, copyAll := range map[string]func() error{
					"copied": func() error { return demultiplex(&both, &both, reader(bytes.NewReader(test.src))) },
					"read":   func() error { _, err := io.Copy(&both, newFrameReader(reader(bytes.NewReader(test.src)))); return err },
				} {
					both.Reset()
					err := copyAll()
					if both.String() != test.inOrder {
						t.Errorf("%s: got %d bytes, want %d", way, both.Len(), len(test.inOrder))
					}
					if !matches(err, test.err) {
						t.Errorf("%s: got %v, want %v", way, err, test.err)
					}
					if err != nil && len(err.Error()) > 2*systemErrorMax {
						t.Errorf("%s: the error has %d bytes", way, len(err.Error()))
					}
				}
			})
		}
	}
}

func TestDemultiplexToFailingWriters(t *testing.T) {
	src := slices.Concat(frame(streamStdout, "a"), frame(streamStderr, "b"))
	if err := demultiplex(io.Discard, failingWriter{io.ErrClosedPipe}, bytes.NewReader(src)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
	if err := demultiplex(shortWriter{}, io.Discard, bytes.NewReader(src)); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v", err)
	}
	failing := iotest.ErrReader(io.ErrNoProgress)
	if err := demultiplex(io.Discard, io.Discard, failing); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

// shortWriter writes nothing and says so.
type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 0, nil }

// A reader must hand out what has arrived, however long the rest is in coming.
func TestFrameReaderDoesNotWaitForMore(t *testing.T) {
	src, sender := io.Pipe()
	defer sender.Close()
	go sender.Write(slices.Concat(frame(streamStdout, "now"), frame(streamStdout, "later")[:12]))
	reading := begin(func() (string, error) {
		p := make([]byte, 100)
		n, err := newFrameReader(src).Read(p)
		return string(p[:n]), err
	})
	if got, err := reading.result(t); got != "nowlate" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// FuzzDemultiplex compares with the engine's own demultiplexer on what is well
// formed, and both of ours with each other on everything.
func FuzzDemultiplex(f *testing.F) {
	f.Add(slices.Concat(frame(streamStdout, "out"), frame(streamStderr, "err"), frame(streamStdout, "")), uint16(3))
	f.Add(frame(streamSystem, "on fire"), uint16(1))
	f.Add([]byte("plain text"), uint16(0))
	f.Add([]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1}, uint16(9))
	f.Fuzz(func(t *testing.T, src []byte, chunk uint16) {
		chunked := func() io.Reader { return &chunkReader{src, int(chunk)%64 + 1} }
		var stdout, stderr, both, read bytes.Buffer
		err := demultiplex(io.MultiWriter(&stdout, &both), io.MultiWriter(&stderr, &both), chunked())
		_, readErr := io.Copy(&read, newFrameReader(chunked()))
		if both.String() != read.String() || (err == nil) != (readErr == nil) {
			t.Fatalf("copied: %q, %v; read: %q, %v", both.Bytes(), err, read.Bytes(), readErr)
		}
		if err != nil {
			return // the oracle takes what is cut short as complete, and a length at its word
		}
		var wantOut, wantErr bytes.Buffer
		_, oracleErr := stdcopy.StdCopy(&wantOut, &wantErr, bytes.NewReader(src))
		if oracleErr != nil || stdout.String() != wantOut.String() || stderr.String() != wantErr.String() {
			t.Fatalf("got %q and %q, want %q and %q, %v", stdout.Bytes(), stderr.Bytes(), wantOut.Bytes(), wantErr.Bytes(), oracleErr)
		}
	})
}

// chunkReader reads at most size bytes at once.
type chunkReader struct {
	rest []byte
	size int
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func BenchmarkDemultiplex(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"64B", 64}, {"1KiB", 1024}, {"16KiB", 16 << 10}} {
		src := bytes.Repeat(frame(streamStdout, strings.Repeat("x", size.bytes)), (16<<20)/size.bytes)
		for _, way := range []struct {
			name string
			copy func(io.Reader) error
		}{
			{"copy", func(src io.Reader) error { return demultiplex(io.Discard, io.Discard, src) }},
			{"read", func(src io.Reader) error {
				_, err := io.Copy(struct{ io.Writer }{io.Discard}, newFrameReader(src))
				return err
			}},
			{"stdcopy", func(src io.Reader) error { _, err := stdcopy.StdCopy(io.Discard, io.Discard, src); return err }},
		} {
			b.Run(size.name+"/"+way.name, func(b *testing.B) {
				b.SetBytes(int64(len(src)))
				for b.Loop() {
					// As a connection gives them: no io.WriterTo, 64 KiB at once.
					if err := way.copy(&chunkReader{src, 64 << 10}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
