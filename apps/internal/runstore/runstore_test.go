package runstore

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
)

func newStore(t *testing.T) Store { return New(filepath.Join(t.TempDir(), "moat"), "here") }

func (s Store) mustClaim(t *testing.T, id string) run.Claim {
	t.Helper()
	claim, err := s.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	return claim
}

func TestLiveness(t *testing.T) {
	s := newStore(t)
	if got := s.Liveness("none"); got != run.LivenessUnknown {
		t.Errorf("without a directory: %v", got)
	}
	live := s.mustClaim(t, "live")
	s.mustClaim(t, "over").Release(run.EndingClean)
	s.mustClaim(t, "left").Release(run.EndingLeft)
	s.mustClaim(t, "killed").Release(run.EndingPartial)
	// Killed before it had noted its engine.
	if err := os.WriteFile(s.fileOf("early"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // asking changes nothing
		for id, want := range map[string]run.Liveness{
			"live": run.LivenessLive, "over": run.LivenessUnknown, "left": run.LivenessLeft, "killed": run.LivenessKilled, "early": run.LivenessKilled, "none": run.LivenessUnknown, "../runs/left": run.LivenessLeft,
		} {
			if got := s.Liveness(id); got != want {
				t.Errorf("%s: %v, want %v", id, got, want)
			}
		}
		if got := s.Ended(); !slices.Equal(got, []string{"early", "killed", "left"}) {
			t.Errorf("ended are %q", got)
		}
	}
	for _, id := range []string{"live", "left", "killed", "early", "none"} {
		Store{s.dir, "elsewhere"}.Forget(id, false)
	}
	if got := s.Ended(); !slices.Equal(got, []string{"killed", "left"}) {
		t.Errorf("with nothing left on another engine: %q", got)
	}
	for _, id := range []string{"live", "left", "killed"} {
		s.Forget(id, id == "live")
	}
	if got := s.Ended(); len(got) > 0 || s.Liveness("live") != run.LivenessLive {
		t.Errorf("with nothing left: %q", got)
	}
	live.Release(run.EndingClean)
	if files, _ := os.ReadDir(s.runs()); len(files) > 0 {
		t.Errorf("files are left: %v", files)
	}
}

// TestLocksBesideCleaners takes locks while others ask about them, and remove what looks left behind.
func TestLocksBesideCleaners(t *testing.T) {
	s := newStore(t)
	stop := make(chan struct{})
	var cleaners sync.WaitGroup
	for range 3 {
		cleaners.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.Forget("run", true)
					s.Ended()
				}
			}
		})
	}
	for i := range 300 {
		lock, err := s.Claim("run")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Liveness("run"); got != run.LivenessLive {
			t.Fatalf("the %d. live run is %v", i, got)
		}
		lock.Release(run.EndingClean)
	}
	close(stop)
	cleaners.Wait()
	if files, _ := os.ReadDir(s.runs()); len(files) > 0 {
		t.Errorf("files are left: %v", files)
	}
}

func TestOwner(t *testing.T) {
	s := newStore(t)
	names := make([]string, 20)
	var asking sync.WaitGroup
	for i := range names {
		asking.Go(func() { names[i], _ = s.Owner() })
	}
	asking.Wait()
	if slices.Sort(names); len(names[0]) < 20 || names[0] != names[len(names)-1] {
		t.Errorf("one directory, many names: %q", names)
	}
	if other, err := newStore(t).Owner(); err != nil || other == names[0] {
		t.Errorf("another directory is called %q too, %v", other, err)
	}
}

func TestDirectoriesOfOthers(t *testing.T) {
	s := newStore(t)
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.dir, s.runs()} {
		for mode, refused := range map[os.FileMode]bool{0o755: false, 0o777: true, 0o720: true, 0o1777: true} {
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
			_, lockErr := s.Claim("run")
			_, ownerErr := s.Owner()
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
		if _, err := s.Owner(); err == nil {
			t.Error("another user's directory is taken")
		}
	}
	file := Store{dir: filepath.Join(t.TempDir(), "file")}
	if err := os.WriteFile(file.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Claim("run"); err == nil {
		t.Error("a file is taken for a directory")
	} else if _, ok := errors.AsType[*core.Error](err); !ok {
		t.Errorf("without a remedy: %v", err)
	}
}

func TestEvidence(t *testing.T) {
	s := newStore(t)
	if found, err := s.Evidence("run"); found != nil || err != nil {
		t.Errorf("none is %+v, %v", found, err)
	}
	want := optional.EgressEvidence{Time: time.Unix(1, 0).UTC(), Dropped: 3, Attempts: []optional.EgressAttempt{{Network: "tcp", Address: netip.MustParseAddrPort("192.0.2.1:80"), Result: optional.EgressFailed}}}
	if err := s.KeepEvidence("run", want); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Evidence("run"); err != nil || !reflect.DeepEqual(*found, want) {
		t.Errorf("it is %+v, %v", found, err)
	}
	if ended := s.Ended(); len(ended) > 0 {
		t.Errorf("it is taken for a run: %q", ended)
	}
	s.ForgetEvidence("")
	s.mustClaim(t, "run").Release(run.EndingPartial)
	s.Forget("run", false)
	if found, err := s.Evidence("run"); found != nil || err != nil {
		t.Errorf("forgotten it is %+v, %v", found, err)
	}
	if err := os.WriteFile(s.evidenceOf("run"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Evidence("run"); err == nil {
		t.Error("a broken file is read")
	}
}
