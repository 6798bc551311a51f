package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// labelOwner tells, by [Env].Owner, whose locks know whether a container's run is live.
const labelOwner = "moatproject.owner"

// lockRun marks a run as live for as long as this process lives: the kernel drops
// the lock even when the process is killed. release ends it and removes the file.
func lockRun(dir, runID string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the run's lock: %w", err)
	}
	lock := flock.New(filepath.Join(dir, runID))
	if err := lock.Lock(); err != nil {
		return nil, fmt.Errorf("lock run %s: %w", runID, err)
	}
	return func() {
		_ = os.Remove(lock.Path())
		_ = lock.Close()
	}, nil
}

// isLive tells whether a process of this user and machine holds the run's lock. In
// doubt it says yes: what is live is not cleaned.
func isLive(dir, runID string) bool {
	path := filepath.Join(dir, filepath.Base(runID))
	if _, err := os.Lstat(path); runID == "" || os.IsNotExist(err) {
		return false
	}
	lock := flock.New(path)
	free, err := lock.TryLock()
	if err != nil || !free {
		return true
	}
	_ = os.Remove(path) // its process was killed
	_ = lock.Close()
	return false
}
