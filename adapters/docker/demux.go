package docker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The engine sends the output of a container without a terminal as frames: a header
// of eight bytes (stream, three zeros, length as big-endian uint32), then the data.
const (
	frameHeader = 8

	streamStdin  = 0 // the engine's echo, which counts as stdout
	streamStdout = 1
	streamStderr = 2
	streamSystem = 3 // an error of the engine's own

	demuxBuffer    = 64 << 10 // many small frames come out of one read
	systemErrorMax = 4 << 10
)

// errEngineStream is what the engine reported in the middle of a stream.
var errEngineStream = errors.New("the engine reported in the middle of the stream")

// parseHeader returns the stream and the length of a frame.
func parseHeader(header []byte) (stream byte, length uint32, err error) {
	if header[0] > streamSystem {
		return 0, 0, fmt.Errorf("stream %d does not exist: this is not multiplexed output", header[0])
	}
	return header[0], binary.BigEndian.Uint32(header[4:frameHeader]), nil
}

// demultiplex copies frames from src until it ends. Each writer gets its stream's
// bytes in order, with one Write for neighbouring frames of the same stream that
// arrived together. A frame's length costs no memory.
func demultiplex(stdout, stderr io.Writer, src io.Reader) error {
	d := demultiplexer{stdout: stdout, stderr: stderr, buffer: make([]byte, demuxBuffer)}
	for {
		n, err := src.Read(d.buffer[d.kept:])
		if failure := d.consume(d.buffer[:d.kept+n]); failure != nil {
			return failure
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return err
		case d.kept > 0 || d.left > 0:
			return io.ErrUnexpectedEOF
		default:
			return nil
		}
	}
}

type demultiplexer struct {
	stdout, stderr io.Writer
	buffer         []byte
	kept           int    // bytes of an unfinished header, at the buffer's beginning
	stream         byte   // of the current frame
	left           uint32 // bytes of the current frame that are still to come
	system         []byte // of an error of the engine's
}

// consume takes data apart. Payloads are moved together in place, over the headers
// between them.
func (d *demultiplexer) consume(data []byte) error {
	var run []byte // payload of d.stream that is not yet written
	for {
		size := min(uint64(d.left), uint64(len(data)))
		run = join(run, data[:size])
		data = data[size:]
		d.left -= uint32(size)
		if d.left > 0 {
			break
		}
		if d.stream == streamSystem {
			break // nothing comes after it
		}
		if len(data) < frameHeader {
			break
		}
		stream, length, err := parseHeader(data)
		if stream != d.stream || err != nil {
			if err := errors.Join(d.write(run), err); err != nil {
				return err
			}
			run = nil
		}
		d.stream, d.left = stream, length
		data = data[frameHeader:]
	}
	if err := d.write(run); err != nil {
		return err
	}
	d.kept = copy(d.buffer, data)
	return nil
}

// join appends payload to run. Both lie in the same buffer, run first.
func join(run, payload []byte) []byte {
	if len(run) == 0 {
		return payload
	}
	return append(run, payload...)
}

// write gives a run to its stream's writer. A complete error of the engine's is
// returned.
func (d *demultiplexer) write(run []byte) error {
	w := d.stdout
	switch d.stream {
	case streamStderr:
		w = d.stderr
	case streamSystem:
		d.system = append(d.system, run[:min(len(run), systemErrorMax-len(d.system))]...)
		if d.left == 0 {
			return fmt.Errorf("%w: %s", errEngineStream, d.system)
		}
		return nil
	}
	if len(run) == 0 {
		return nil
	}
	n, err := w.Write(run)
	if err == nil && n < len(run) {
		err = io.ErrShortWrite
	}
	return err
}

// frameReader reads the payloads of all streams in the order of their arrival.
type frameReader struct {
	src  *bufio.Reader
	left uint64 // bytes of the current frame that are still to come
}

func newFrameReader(src io.Reader) *frameReader {
	return &frameReader{src: bufio.NewReaderSize(src, demuxBuffer)}
}

// Read fills p with as many frames as have arrived.
func (f *frameReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		arrived := f.src.Buffered()
		switch {
		case f.left == 0 && n > 0 && arrived < frameHeader, f.left > 0 && n > 0 && arrived == 0:
			return n, nil // the next bytes may be long in coming
		case f.left == 0:
			err = f.next()
		default:
			var m int
			m, err = f.src.Read(p[n:min(uint64(len(p)), uint64(n)+f.left)])
			n += m
			f.left -= uint64(m)
			if errors.Is(err, io.EOF) && f.left > 0 {
				err = io.ErrUnexpectedEOF
			}
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// next reads a header.
func (f *frameReader) next() error {
	header, err := f.src.Peek(frameHeader)
	if err != nil {
		if errors.Is(err, io.EOF) && len(header) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	stream, length, err := parseHeader(header)
	if err != nil {
		return err
	}
	_, _ = f.src.Discard(frameHeader)
	f.left = uint64(length)
	if stream == streamSystem {
		message, _ := io.ReadAll(io.LimitReader(f.src, min(int64(length), systemErrorMax)))
		return fmt.Errorf("%w: %s", errEngineStream, message)
	}
	return nil
}
