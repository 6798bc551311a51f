package record

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	var order []string
	result := Run(t, func(t testing.TB) {
		t.Cleanup(func() { order = append(order, "first") })
		t.Cleanup(func() {
			order = append(order, "second")
			if t.Context().Err() == nil {
				t.Error("the context has not ended")
			}
			t.FailNow()
		})
		t.Log("one")
		t.Fatalf("tw%s", "o")
		t.Log("never")
	})
	if !result.Failed || result.String() != "one\ntwo\nfailed" {
		t.Errorf("got %+v", result)
	}
	if !slices.Equal(order, []string{"second", "first"}) {
		t.Errorf("cleaned up in the order %v", order)
	}
}

func TestRunSuccess(t *testing.T) {
	result := Run(t, func(t testing.TB) { t.Logf("fine") })
	if result.Failed || result.String() != "fine" {
		t.Errorf("got %+v", result)
	}
}

func TestEveryFailureCounts(t *testing.T) {
	for name, fail := range map[string]func(testing.TB){
		"Error":   func(t testing.TB) { t.Error("x") },
		"Errorf":  func(t testing.TB) { t.Errorf("x") },
		"Fail":    func(t testing.TB) { t.Fail() },
		"FailNow": func(t testing.TB) { t.FailNow() },
		"Fatal":   func(t testing.TB) { t.Fatal("x") },
		"Fatalf":  func(t testing.TB) { t.Fatalf("x") },
	} {
		seen := false
		if !Run(t, func(t testing.TB) {
			t.Cleanup(func() { seen = t.Failed() })
			fail(t)
		}).Failed || !seen {
			t.Errorf("%s does not fail the test", name)
		}
	}
}

func TestRunAlone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var directory string
	result := RunAlone(ctx, "its name", func(recorded testing.TB) {
		directory = recorded.TempDir()
		recorded.Cleanup(func() {
			if _, err := os.Stat(directory); err != nil {
				recorded.Errorf("the directory is gone too early: %v", err)
			}
		})
		recorded.Log(recorded.Name())
		cancel()
		<-recorded.Context().Done()
		recorded.(interface{ Untested(string) }).Untested("interrupted")
		recorded.SkipNow()
		recorded.Error("it goes on")
	})
	if result.Failed || result.String() != "its name" || !slices.Equal(result.Untested, []string{"interrupted"}) {
		t.Errorf("got %+v", result)
	}
	if _, err := os.Stat(directory); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}

func TestAPanicFails(t *testing.T) {
	cleaned := false
	result := RunAlone(t.Context(), "", func(t testing.TB) {
		t.Cleanup(func() { cleaned = true })
		t.Cleanup(func() { panic("in the clean-up") })
		panic("in the test")
	})
	for _, text := range []string{"panic: in the test", "panic: in the clean-up", "record_test.go"} {
		if !strings.Contains(result.String(), text) {
			t.Errorf("%q is missing from %s", text, result)
		}
	}
	if !result.Failed || !cleaned {
		t.Errorf("failed: %t, cleaned up: %t", result.Failed, cleaned)
	}
}
