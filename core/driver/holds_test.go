package driver

import (
	"context"
	"errors"
	"testing"
)

func isReleased(holds *Holds, created bool) bool {
	_, ok := holds.Release("id", created)
	return ok
}

func TestHolds(t *testing.T) {
	var holds Holds
	if isReleased(&holds, false) {
		t.Error("a running container that nothing holds was released")
	}
	for range 2 {
		if !isReleased(&holds, true) || holds.Holding("id") {
			t.Error("a release before the start is not remembered")
		}
	}
	hold := holds.Begin("id")
	if open, err := holds.Await(t.Context(), hold); !open || err != nil {
		t.Errorf("after a release before the start: %t, %v", open, err)
	}
	second := holds.Begin("id")
	if open, err := holds.Await(t.Context(), second); open || err != nil {
		t.Errorf("the second attachment of a start: %t, %v", open, err)
	}
	holds.End("id", hold)
	if !isReleased(&holds, false) {
		t.Error("releasing again is refused while there is an attachment")
	}
	holds.End("id", second)
	if len(holds.holds) != 0 || isReleased(&holds, false) {
		t.Error("the release of a start that is over is remembered")
	}
}

func TestHoldsAfterTheAttachment(t *testing.T) {
	var holds Holds
	hold := holds.Begin("id")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if open, err := holds.Await(ctx, hold); open || !errors.Is(err, context.Canceled) {
		t.Errorf("%t, %v", open, err)
	}
	holds.End("id", hold)
	if isReleased(&holds, false) || !holds.Holding("id") {
		t.Error("nothing is attached, but it was released")
	}
	hold = holds.Begin("id")
	if !isReleased(&holds, false) {
		t.Error("a new attachment cannot be released")
	}
	if open, err := holds.Await(t.Context(), hold); !open || err != nil {
		t.Errorf("%t, %v", open, err)
	}
	holds.Forget("id")
	holds.End("id", hold)
	if len(holds.holds) != 0 {
		t.Error("a removed container is remembered")
	}
}

func TestHoldsAwaitStart(t *testing.T) {
	var holds Holds
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := holds.AwaitStart(ended, "id"); !errors.Is(err, context.Canceled) {
		t.Errorf("before the start: %v", err)
	}
	started := make(chan error, 1)
	go func() { started <- holds.AwaitStart(t.Context(), "id") }()
	hold := holds.Begin("id")
	hold.Started()
	hold.Started() // by a second attachment to the same start
	if err := <-started; err != nil {
		t.Errorf("after the start: %v", err)
	}
	if err := holds.AwaitStart(t.Context(), "id"); err != nil {
		t.Errorf("later: %v", err)
	}
	holds.End("id", hold)
}

func TestHoldsAwaitBegun(t *testing.T) {
	var holds Holds
	want := func(when string, hold *Hold, want bool) {
		t.Helper()
		if begun, err := hold.AwaitBegun(t.Context()); begun != want || err != nil {
			t.Errorf("%s: %t, %v", when, begun, err)
		}
	}
	if hold, ok := holds.Release("id", true); hold != nil || !ok {
		t.Error("a start that is still to come is waited for")
	}
	hold := holds.Begin("id")
	released, _ := holds.Release("id", false)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := released.AwaitBegun(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("before the program begins: %v", err)
	}
	go func() {
		_, _ = holds.Await(t.Context(), hold)
		hold.Decide(true)
	}()
	want("when it begins", released, true)
	holds.End("id", hold)
	want("when it has ended", released, true)

	hold = holds.Begin("id")
	released, _ = holds.Release("id", false)
	holds.End("id", hold)
	want("when the start has ended before", released, false)

	hold = holds.Begin("id")
	released, _ = holds.Release("id", false)
	_, _ = holds.Await(t.Context(), hold)
	hold.Decide(false)
	holds.End("id", hold)
	want("when the release was refused", released, false)

	hold = holds.Begin("id")
	released, _ = holds.Release("id", false)
	_, _ = holds.Await(t.Context(), hold)
	holds.End("id", hold)
	hold.Decide(true)
	want("when the program has ended before it is known that it began", released, true)
}
