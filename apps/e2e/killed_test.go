package e2e

import (
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// moment is when a process is killed: at a request of its, before the engine has it, or
// before its answer is back. Its zero value never comes.
type moment struct {
	mu      sync.Mutex
	left    int // until it comes
	passed  int // since it was set
	reached chan struct{}
	open    chan struct{}
}

// set makes the nth from now on the one. 0: none.
func (m *moment) set(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.passed, m.reached, m.open = n, 0, make(chan struct{}), make(chan struct{})
}

func (m *moment) show(*http.Request, bool) {
	m.mu.Lock()
	m.passed++
	m.left--
	come, open := m.left == 0, m.open
	if come {
		close(m.reached)
	}
	m.mu.Unlock()
	if come {
		<-open
	}
}

// TestKilledAtRandomMoments kills runs wherever they are, and cleans up after them.
func TestKilledAtRandomMoments(t *testing.T) {
	seed := rand.Uint64()
	if given, err := strconv.ParseUint(os.Getenv("MOAT_TEST_SEED"), 10, 64); err == nil {
		seed = given
	}
	t.Logf("MOAT_TEST_SEED=%d", seed)
	for name, test := range map[string]struct {
		variable string
		times    int
		args     []string
	}{
		"a run":                            {engine, 20, []string{"--no-sandbox", image, "true"}},
		"a run with a service":             {engine, 20, []string{"--no-sandbox", "--service", "redis:7", image, "true"}},
		"a run with restricted egress":     {engine, 10, []string{"--no-sandbox", "--egress", "example.com", image, "true"}},
		"a sandboxed run with two of them": {engine, 6, []string{"--service", "redis:7", "--service", "postgres:15", image, "true"}},
		"a sandboxed run with a service, on the newest engine": {newest, 6, []string{"--service", "redis:7", image, "true"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := newServiceUserOn(t, test.variable)
			var m moment
			m.set(0)
			pending := u.proxy(m.show)
			u.must(u.labelled(append([]string{"--rm"}, test.args...)...)...) // a sandbox is proven once a day
			m.set(0)
			u.must(u.labelled(append([]string{"--rm"}, test.args...)...)...)
			moments, random := m.passed, rand.New(rand.NewPCG(seed, 0))
			for range test.times {
				n := 1 + random.IntN(moments)
				m.set(n)
				run := u.start(u.command(u.labelled(append([]string{"--rm"}, test.args...)...)...))
				ended := make(chan error, 1)
				go func() { ended <- run.Wait() }()
				select {
				case <-m.reached:
					_ = run.Process.Signal(syscall.SIGKILL)
					<-ended
				case <-ended: // it has made fewer requests than the last
				}
				close(m.open)
				m.set(0)
				// What the engine has been asked for comes to an end, what runs ends only by this.
				u.eventually("nothing is in progress", func() bool { u.must("clean"); return pending.Load() == 0 })
				u.must("clean")
				if left := u.owned() + u.left(); left != "" {
					t.Errorf("killed at moment %d of %d: left is %s", n, moments, left)
				}
			}
		})
	}
}
