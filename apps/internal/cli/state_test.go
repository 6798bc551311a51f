package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moatproject/moat/core"
)

func newState(t *testing.T) state { return state{filepath.Join(t.TempDir(), "moat")} }

func (s state) mustLock(t *testing.T, id, endpoint string) *runLock {
	t.Helper()
	lock, err := s.lockRun(id)
	if err == nil {
		err = lock.onEngine(endpoint)
	}
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

// killed leaves what a process leaves that was killed.
func (s state) killed(t *testing.T, id, endpoint string) {
	t.Helper()
	s.mustLock(t, id, endpoint).release(uncleaned)
}

func TestStateOfRuns(t *testing.T) {
	s := newState(t)
	if got := s.ofRun("none"); got != runUnknown {
		t.Errorf("without a folder: %v", got)
	}
	live := s.mustLock(t, "live", "here")
	s.mustLock(t, "over", "here").release(inOrder)
	s.mustLock(t, "left", "here").release(leaving)
	s.killed(t, "killed", "here")
	early, err := s.lockRun("early") // killed before it had an engine
	if err != nil {
		t.Fatal(err)
	}
	early.release(uncleaned)
	for range 2 { // asking changes nothing
		for id, want := range map[string]runState{
			"live": runLive, "over": runUnknown, "left": runLeft, "killed": runKilled, "early": runKilled, "none": runUnknown, "../runs/left": runLeft,
		} {
			if got := s.ofRun(id); got != want {
				t.Errorf("%s: %v, want %v", id, got, want)
			}
		}
		if got := s.ended(); !slices.Equal(got, []string{"early", "killed", "left"}) {
			t.Errorf("ended are %q", got)
		}
	}
	for _, id := range []string{"live", "left", "killed", "early", "none"} {
		s.forget(id, "elsewhere", false)
	}
	if got := s.ended(); !slices.Equal(got, []string{"killed", "left"}) {
		t.Errorf("with nothing left on another engine: %q", got)
	}
	for _, id := range []string{"live", "left", "killed"} {
		s.forget(id, "here", id == "live")
	}
	if got := s.ended(); len(got) > 0 || s.ofRun("live") != runLive {
		t.Errorf("with nothing left: %q", got)
	}
	live.release(inOrder)
	if files, _ := os.ReadDir(s.runs()); len(files) > 0 {
		t.Errorf("files are left: %v", files)
	}
}

// TestLocksBesideCleaners takes locks while others ask about them, and remove what looks left behind.
func TestLocksBesideCleaners(t *testing.T) {
	s := newState(t)
	stop := make(chan struct{})
	var cleaners sync.WaitGroup
	for range 3 {
		cleaners.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.forget("run", "", true)
					s.ended()
				}
			}
		})
	}
	for i := range 300 {
		lock, err := s.lockRun("run")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.ofRun("run"); got != runLive {
			t.Fatalf("the %d. live run is %v", i, got)
		}
		lock.release(inOrder)
	}
	close(stop)
	cleaners.Wait()
	if files, _ := os.ReadDir(s.runs()); len(files) > 0 {
		t.Errorf("files are left: %v", files)
	}
}

func TestOwner(t *testing.T) {
	s := newState(t)
	names := make([]string, 20)
	var asking sync.WaitGroup
	for i := range names {
		asking.Go(func() { names[i], _ = s.owner() })
	}
	asking.Wait()
	if slices.Sort(names); len(names[0]) < 20 || names[0] != names[len(names)-1] {
		t.Errorf("one folder, many names: %q", names)
	}
	if other, err := newState(t).owner(); err != nil || other == names[0] {
		t.Errorf("another folder is called %q too, %v", other, err)
	}
}

func TestStateIsNobodyElses(t *testing.T) {
	s := newState(t)
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.dir, s.runs()} {
		for mode, refused := range map[os.FileMode]bool{0o755: false, 0o777: true, 0o720: true, 0o1777: true} {
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
			_, lockErr := s.lockRun("run")
			_, ownerErr := s.owner()
			for _, err := range []error{lockErr, ownerErr} {
				if (err != nil) != refused || (refused && !strings.Contains(err.Error(), "XDG_STATE_HOME")) {
					t.Errorf("%s with mode %o: %v", dir, mode, err)
				}
			}
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			_ = os.Remove(s.fileOf("run"))
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(s.dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if _, err := s.owner(); err == nil {
			t.Error("another user's folder is taken")
		}
	}
	file := state{filepath.Join(t.TempDir(), "file")}
	if err := os.WriteFile(file.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := file.lockRun("run"); err == nil {
		t.Error("a file is taken for a folder")
	} else if _, ok := errors.AsType[*core.Error](err); !ok {
		t.Errorf("without a remedy: %v", err)
	}
}

func TestStateDir(t *testing.T) {
	for _, test := range []struct{ state, home, want string }{
		{"/s", "/h", "/s/moat"},
		{"", "/h", "/h/.local/state/moat"},
		{"relative", "/h", "/h/.local/state/moat"},
	} {
		t.Setenv("XDG_STATE_HOME", test.state)
		t.Setenv("HOME", test.home)
		t.Setenv("XDG_RUNTIME_DIR", "/gone/at/logout")
		if got := ProcessEnv().StateDir; got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}
