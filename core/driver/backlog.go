package driver

import (
	"bytes"
	"io"
	"sync"
)

// BacklogSize is a common size for a [Backlog], in bytes. One slow reader delays everyone
// who is attached, so an adapter must keep reading, and it must not drop output.
const BacklogSize = 64 << 20

// Backlog buffers an engine's output for a slow reader. When the buffer is full, it takes
// no more until the reader has caught up. The last read may exceed the bound.
type Backlog struct {
	max     int
	mu      sync.Mutex
	changed sync.Cond
	kept    bytes.Buffer
	err     error // after kept
}

// NewBacklog returns a backlog that keeps about max bytes.
func NewBacklog(max int) *Backlog {
	b := &Backlog{max: max}
	b.changed.L = &b.mu
	return b
}

// Fill reads src until src ends or the backlog does. Its owner ends a Read of src that
// is in progress by closing src.
func (b *Backlog) Fill(src io.Reader) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := src.Read(buffer)
		if b.add(buffer[:n], err) != nil {
			return
		}
	}
}

// End makes Read return err after all that is kept, and Fill return.
func (b *Backlog) End(err error) { _ = b.add(nil, err) }

func (b *Backlog) add(data []byte, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && b.kept.Len() >= b.max {
		b.changed.Wait()
	}
	if b.err == nil {
		b.kept.Write(data)
		b.err = err
	}
	b.changed.Broadcast()
	return b.err
}

// Read waits for output, and returns the error that ended it after the last of it.
func (b *Backlog) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && b.kept.Len() == 0 {
		b.changed.Wait()
	}
	if b.kept.Len() == 0 {
		return 0, b.err
	}
	defer b.changed.Broadcast()
	return b.kept.Read(p)
}

// Close drops what is kept. Read and Fill return.
func (b *Backlog) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept.Reset()
	b.err = io.ErrClosedPipe
	b.changed.Broadcast()
}
