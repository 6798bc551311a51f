package record

import (
	"slices"
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
