package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/moatproject/moat/core"
)

// Labels of runs, beside core's.
const (
	// labelOwner tells, by [state.owner], whose locks know whether a container's run is live.
	labelOwner = "moatproject.owner"

	// labelForeground is on containers whose run ends with its `moat run`, unless that
	// has left it.
	labelForeground = "moatproject.foreground"
)

// state is the folder in which `moat run` and `moat clean` of one user meet. It has a
// file for each run that is live, that goes on without its process, or whose process was
// killed. Nothing but Moat removes them, and the last ones only with what the run made.
// So a file that is missing proves nothing, least of all that a run is over.
type state struct{ dir string }

func (a *app) state() state { return state{a.env.StateDir} }

func (s state) runs() string            { return filepath.Join(s.dir, "runs") }
func (s state) fileOf(id string) string { return filepath.Join(s.runs(), filepath.Base(id)) }

// open makes the folder where it is missing. It refuses one that others may write to:
// they could make live runs look dead.
func (s state) open() error {
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

func (s state) failed(err error) error {
	if err == nil {
		return nil
	}
	return &core.Error{Op: "keep account of runs", Object: s.dir, Err: err, Remedy: "XDG_STATE_HOME can name another folder"}
}

// owner is a name for this folder that no other folder has, on any machine: machines
// may share an engine, and change their names. It is made once.
func (s state) owner() (name string, err error) {
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

// runLock marks a run as live for as long as this process lives: the kernel drops the
// lock even when the process is killed.
type runLock struct {
	file     *flock.Flock
	endpoint string
}

func (s state) lockRun(id string) (*runLock, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	for {
		file := flock.New(s.fileOf(id))
		if err := file.Lock(); err != nil {
			return nil, s.failed(err)
		}
		// It may have been taken for one that was left behind, and removed, before it was locked.
		if isCurrent(file) {
			return &runLock{file: file}, nil
		}
		_ = file.Close()
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

// onEngine notes where the run's containers are going to be: only there can be seen
// whether any is left.
func (l *runLock) onEngine(endpoint string) error {
	l.endpoint = endpoint
	return os.WriteFile(l.file.Path(), []byte(endpoint+"\n"), 0o600)
}

// ending is how a run's process ends.
type ending int

const (
	inOrder   ending = iota
	leaving          // the run goes on
	uncleaned        // something could not be removed
)

// release ends the lock. It removes its file, unless `moat clean` has still to see it.
func (l *runLock) release(how ending) {
	defer func() { _ = l.file.Close() }()
	if how == uncleaned {
		return
	}
	if how == leaving && os.WriteFile(l.file.Path(), []byte(l.endpoint+"\n"+leftMark+"\n"), 0o600) == nil {
		return
	}
	_ = os.Remove(l.file.Path())
}

// runState is what is known of a run.
type runState int

const (
	runUnknown runState = iota // it ended in order, it never was in the foreground, or its file was lost
	runKilled                  // its process was killed, or could not remove everything
	runLeft                    // its process has ended, the run goes on
	runLive                    // its process lives
)

// ofRun asks a run's lock, and changes nothing. In doubt it is live: what is live is not
// cleaned.
func (s state) ofRun(id string) runState {
	file := flock.New(s.fileOf(id), flock.SetFlag(os.O_RDONLY))
	free, err := file.TryRLock() // shared: another `moat clean` may ask just now
	if errors.Is(err, fs.ErrNotExist) {
		return runUnknown
	}
	if err != nil || !free {
		return runLive
	}
	defer func() { _ = file.Close() }()
	_, mark, err := readLock(file)
	switch {
	case !isCurrent(file):
		return runUnknown
	case err != nil:
		return runLive
	case mark == leftMark:
		return runLeft
	}
	return runKilled
}

func readLock(file *flock.Flock) (endpoint, mark string, err error) {
	content, err := os.ReadFile(file.Path())
	endpoint, mark, _ = strings.Cut(string(content), "\n")
	return endpoint, strings.TrimSpace(mark), err
}

// ended lists the runs that have a file and no process.
func (s state) ended() (ids []string) {
	files, _ := os.ReadDir(s.runs()) // none, where there is no folder
	for _, file := range files {
		if s.ofRun(file.Name()) != runLive {
			ids = append(ids, file.Name())
		}
	}
	return ids
}

// forget removes the file of a run of which nothing is left on the engine at endpoint,
// unless its process lives or it has got things elsewhere. Where it was seen there, the
// engine only has several names.
func (s state) forget(id, endpoint string, seen bool) {
	file := flock.New(s.fileOf(id), flock.SetFlag(os.O_RDONLY))
	if free, err := file.TryLock(); err != nil || !free {
		return
	}
	defer func() { _ = file.Close() }()
	if where, _, err := readLock(file); err == nil && isCurrent(file) && (seen || where == "" || where == endpoint) {
		_ = os.Remove(file.Path())
	}
}
