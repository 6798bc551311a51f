package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// Labels of runs, beside core's.
const (
	// labelOwner tells, by [Env].Owner, whose locks know whether a container's run is live.
	labelOwner = "moatproject.owner"

	// labelForeground is on containers whose run ends with its `moat run`, unless that
	// has left it.
	labelForeground = "moatproject.foreground"
)

// runLock marks a run as live for as long as this process lives: the kernel drops the
// lock even when the process is killed.
type runLock struct{ file *flock.Flock }

func lockRun(dir, runID string) (*runLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the run's lock: %w", err)
	}
	file := flock.New(filepath.Join(dir, runID))
	if err := file.Lock(); err != nil {
		return nil, fmt.Errorf("lock run %s: %w", runID, err)
	}
	return &runLock{file}, nil
}

// leftMark is what the lock's file of a run contains that goes on without its process.
const leftMark = "left\n"

// release ends the lock and removes its file, unless the run goes on.
func (l *runLock) release(left bool) {
	if !left || os.WriteFile(l.file.Path(), []byte(leftMark), 0o600) != nil {
		_ = os.Remove(l.file.Path())
	}
	_ = l.file.Close()
}

// runState is what the locks of this user and machine know of a run.
type runState int

const (
	runOver runState = iota // or it never was in the foreground
	runLeft                 // its process has ended, the run goes on
	runLive                 // its process lives
)

// stateOfRun asks the run's lock. In doubt it is live: what is live is not cleaned.
func stateOfRun(dir, runID string) runState {
	path := filepath.Join(dir, filepath.Base(runID))
	if _, err := os.Lstat(path); runID == "" || os.IsNotExist(err) {
		return runOver
	}
	file := flock.New(path)
	free, err := file.TryLock()
	if err != nil || !free {
		return runLive
	}
	defer func() { _ = file.Close() }()
	if mark, err := os.ReadFile(path); err == nil && string(mark) == leftMark {
		return runLeft
	}
	_ = os.Remove(path) // its process was killed
	return runOver
}

// forgetRun removes what is kept here of a run whose main container is gone, unless its
// process lives.
func forgetRun(dir, runID string) {
	if stateOfRun(dir, runID) == runLeft {
		_ = os.Remove(filepath.Join(dir, filepath.Base(runID)))
	}
}
