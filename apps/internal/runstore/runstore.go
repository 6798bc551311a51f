// Package runstore remembers runs in files: a [run.Store] for the processes of one user.
package runstore

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
)

// Store is a directory in which `moat run` and `moat clean` of one user meet. It has a
// file for each run that is live, that goes on without its process, or whose process was
// killed. Nothing but Moat removes them, and the last ones only with what the run made.
// So a missing file proves nothing, least of all that a run is over.
type Store struct {
	dir      string
	endpoint string
}

// New returns the store in a directory, for the runs on the engine at endpoint. The
// directory is made when it is first needed.
func New(dir, endpoint string) Store { return Store{dir, endpoint} }

func (s Store) runs() string            { return filepath.Join(s.dir, "runs") }
func (s Store) fileOf(id string) string { return filepath.Join(s.runs(), filepath.Base(id)) }

// open makes the directory where it is missing. It refuses one that others may write to:
// they could make live runs look dead.
func (s Store) open() error {
	if err := os.MkdirAll(s.runs(), 0o700); err != nil {
		return s.failed(err)
	}
	for _, dir := range []string{s.dir, s.runs()} {
		info, err := os.Stat(dir)
		if err != nil {
			return s.failed(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
			return s.failed(fmt.Errorf("%s is another user's, or others may write to it", dir))
		}
	}
	return nil
}

func (s Store) failed(err error) error {
	if err == nil {
		return nil
	}
	return &core.Error{Op: "keep account of runs", Object: s.dir, Err: err, Remedy: "Name another directory with XDG_STATE_HOME"}
}

// Owner returns a name for this directory that no other directory has, on any machine:
// machines may share an engine, and change their names. It is made once.
func (s Store) Owner() (name string, err error) {
	if err := s.open(); err != nil {
		return "", err
	}
	file := flock.New(filepath.Join(s.dir, "owner"))
	if err := file.Lock(); err != nil {
		return "", s.failed(err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	known, err := os.ReadFile(file.Path())
	if name = strings.TrimSpace(string(known)); err == nil && name == "" {
		name = rand.Text()
		err = os.WriteFile(file.Path(), []byte(name+"\n"), 0o600)
	}
	return name, s.failed(err)
}

// claim marks a run as live for as long as this process lives: the kernel drops the
// lock even when the process is killed.
type claim struct {
	file     *flock.Flock
	endpoint string
}

// Claim locks the run's file, and notes in it where the run's containers are going to be:
// only there can be seen whether any is left.
func (s Store) Claim(runID string) (run.Claim, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	for {
		file := flock.New(s.fileOf(runID))
		if err := file.Lock(); err != nil {
			return nil, s.failed(err)
		}
		// It may have been taken for one that was left behind, and removed, before it was locked.
		if !isCurrent(file) {
			_ = file.Close()
			continue
		}
		if err := os.WriteFile(file.Path(), []byte(s.endpoint+"\n"), 0o600); err != nil {
			_ = file.Close()
			return nil, s.failed(err)
		}
		return claim{file, s.endpoint}, nil
	}
}

// isCurrent tells whether an open file is still what its path leads to.
func isCurrent(file *flock.Flock) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	found, err := os.Stat(file.Path())
	return err == nil && os.SameFile(opened, found)
}

// leftMark is the second line in the file of a run that goes on without its process.
const leftMark = "left"

// The evidence of a run has a file of its own, which stays for as long as the run's container.
func (s Store) evidenceOf(runID string) string {
	return filepath.Join(s.dir, "evidence", filepath.Base(runID))
}

// KeepEvidence remembers the evidence of a run.
func (s Store) KeepEvidence(runID string, evidence optional.EgressEvidence) error {
	if err := s.open(); err != nil {
		return err
	}
	text, err := json.Marshal(evidence)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(s.evidenceOf(runID)), 0o700)
	}
	if err == nil {
		err = os.WriteFile(s.evidenceOf(runID), text, 0o600)
	}
	return s.failed(err)
}

// Evidence returns the evidence of a run, nil where none is kept.
func (s Store) Evidence(runID string) (*optional.EgressEvidence, error) {
	text, err := os.ReadFile(s.evidenceOf(runID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	evidence := new(optional.EgressEvidence)
	if err == nil {
		err = json.Unmarshal(text, evidence)
	}
	if err != nil {
		return nil, s.failed(err)
	}
	return evidence, nil
}

// ForgetEvidence removes the evidence of a run whose container is gone.
func (s Store) ForgetEvidence(runID string) {
	if runID != "" {
		_ = os.Remove(s.evidenceOf(runID))
	}
}

// Release ends the lock. It removes its file, unless `moat clean` has still to see it.
func (c claim) Release(how run.Ending) {
	defer func() { _ = c.file.Close() }()
	if how == run.EndingPartial {
		return
	}
	if how == run.EndingLeft && os.WriteFile(c.file.Path(), []byte(c.endpoint+"\n"+leftMark+"\n"), 0o600) == nil {
		return
	}
	_ = os.Remove(c.file.Path())
}

// Liveness asks a run's lock, and changes nothing. In doubt the run is live: what is live
// is not cleaned.
func (s Store) Liveness(id string) run.Liveness {
	file := flock.New(s.fileOf(id), flock.SetFlag(os.O_RDONLY))
	free, err := file.TryRLock() // shared: another `moat clean` may ask just now
	if errors.Is(err, fs.ErrNotExist) {
		return run.LivenessUnknown
	}
	if err != nil || !free {
		return run.LivenessLive
	}
	defer func() { _ = file.Close() }()
	_, mark, err := readLock(file)
	switch {
	case !isCurrent(file):
		return run.LivenessUnknown
	case err != nil:
		return run.LivenessLive
	case mark == leftMark:
		return run.LivenessLeft
	}
	return run.LivenessKilled
}

func readLock(file *flock.Flock) (endpoint, mark string, err error) {
	content, err := os.ReadFile(file.Path())
	endpoint, mark, _ = strings.Cut(string(content), "\n")
	return endpoint, strings.TrimSpace(mark), err
}

// Ended lists the runs that have a file and no process.
func (s Store) Ended() (ids []string) {
	files, _ := os.ReadDir(s.runs()) // none, where there is no directory
	for _, file := range files {
		if s.Liveness(file.Name()) != run.LivenessLive {
			ids = append(ids, file.Name())
		}
	}
	return ids
}

// Forget removes the files of a run of which nothing is left on this engine, unless its
// process lives or it has got things elsewhere. Where it was seen here, the engine only
// has several names.
func (s Store) Forget(id string, seen bool) {
	file := flock.New(s.fileOf(id), flock.SetFlag(os.O_RDONLY))
	if free, err := file.TryLock(); err != nil || !free {
		return
	}
	defer func() { _ = file.Close() }()
	if where, _, err := readLock(file); err == nil && isCurrent(file) && (seen || where == "" || where == s.endpoint) {
		s.ForgetEvidence(id) // first: afterwards nothing would lead to it
		_ = os.Remove(file.Path())
	}
}
