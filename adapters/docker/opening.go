package docker

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// openingGrace is how long output is held back that may be somebody else's than the
// program's. A prompt must not wait for longer.
const openingGrace = 80 * time.Millisecond

// openingMax bounds what is held back: such words quote a program's name.
const openingMax = 1 << 20

// opening watches the beginning of an output for the words of those who could not start
// its program, and keeps them out of it. The gate's are known by its mark. Other words
// anybody can write: they are held back for openingGrace, and believed only where there
// is a proof beside them.
type opening struct {
	gate   string            // what the gate's words begin with; empty: there is no gate
	others func([]byte) bool // tells what may be others' words; nil: there are none
	prove  func(string) bool // asked meanwhile whether they are
	proven atomic.Bool       // they are

	mu     sync.Mutex // guards what follows
	to     io.Writer
	head   []byte // what came first, as long as it may be such words
	passed bool   // head has been written
	over   bool   // more has come: head is the program's
}

// before returns a writer that passes on to w what is the program's. That of nil is w.
func (o *opening) before(w io.Writer) io.Writer {
	if o == nil {
		return w
	}
	o.to = w
	return o
}

func (o *opening) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.over && !o.passed {
		first := len(o.head) == 0
		o.head = append(o.head, p...)
		switch {
		case o.isGates():
			return len(p), nil
		case o.isOthers():
			if first {
				o.suspect()
			}
			return len(p), nil
		}
		o.over = true
		return len(p), o.pass()
	}
	o.over = true
	return o.to.Write(p)
}

func (o *opening) isGates() bool {
	return o.gate != "" && bytes.HasPrefix(o.head, []byte(o.gate)) && len(o.head) <= openingMax
}

func (o *opening) isOthers() bool {
	return o.others != nil && len(o.head) <= openingMax && o.others(o.head)
}

// suspect sees to it that what is held back without a proof is not held back for long.
func (o *opening) suspect() {
	time.AfterFunc(openingGrace, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if !o.proven.Load() && o.isOthers() {
			_ = o.pass() // the attachment ends where the caller's writer fails
		}
	})
	said := string(o.head)
	go func() { o.proven.Store(o.prove(said)) }()
}

// release writes what is held back.
func (o *opening) release() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pass()
}

// pass is release in a Write.
func (o *opening) pass() error {
	if o.passed || len(o.head) == 0 {
		return nil
	}
	o.passed = true
	_, err := o.to.Write(o.head)
	return err
}

// failure returns what the gate said, or nil.
func (o *opening) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over || !o.isGates() {
		return nil
	}
	return errors.New("moat: " + strings.TrimSpace(strings.TrimPrefix(string(o.head), o.gate)))
}

// words returns what may be others', if that was all.
func (o *opening) words() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over || !o.isOthers() {
		return ""
	}
	return strings.TrimSpace(string(o.head))
}
