package driver

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// TestBacklogIsBounded fills a backlog that nothing reads.
func TestBacklogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 128 << 10
		data := []byte(strings.Repeat("0123456789abcdef", most/8)) // twice what it keeps
		source := bytes.NewReader(data)
		backlog := NewBacklog(most)
		filled := false
		go func() {
			backlog.Fill(source)
			filled = true
		}()
		synctest.Wait()
		if taken := len(data) - source.Len(); taken < most || taken > 2*most || filled {
			t.Errorf("it has taken %d bytes; all: %t", taken, filled)
		}
		if got, err := io.ReadAll(backlog); !bytes.Equal(got, data) || err != nil {
			t.Errorf("%d bytes of %d came out, %v", len(got), len(data), err)
		}
		synctest.Wait()
		if !filled {
			t.Error("filling goes on after the end")
		}
	})
}

// TestBacklogIsClosed has Read and Fill wait for each other's side.
func TestBacklogIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		empty, full := NewBacklog(1), NewBacklog(1)
		ended := make(chan error, 1)
		go func() {
			_, err := empty.Read(make([]byte, 1))
			ended <- err
		}()
		go func() {
			full.Fill(iotest.OneByteReader(strings.NewReader("xyz")))
			ended <- nil
		}()
		synctest.Wait()
		empty.Close()
		if err := <-ended; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Read returned %v", err)
		}
		full.Close()
		<-ended
		if n, err := full.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("what was kept is still there: %d, %v", n, err)
		}
	})
}

// TestBacklogEndsInTheSourcesPlace keeps what the source has sent.
func TestBacklogEndsInTheSourcesPlace(t *testing.T) {
	gone := errors.New("gone")
	backlog := NewBacklog(10)
	source, sent := io.Pipe()
	go backlog.Fill(source)
	_, _ = io.WriteString(sent, "all")
	_, _ = sent.Write(nil) // what was before it is kept by then
	backlog.End(gone)
	if got, err := io.ReadAll(backlog); string(got) != "all" || !errors.Is(err, gone) {
		t.Errorf("got %q, %v", got, err)
	}
	sent.Close()
}
