package driver

import (
	"context"
	"errors"
	"testing"
)

func TestHolds(t *testing.T) {
	var holds Holds
	if holds.Release("id", false) {
		t.Error("a running container that nothing holds was released")
	}
	for range 2 {
		if !holds.Release("id", true) || holds.Holding("id") {
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
	if !holds.Release("id", false) {
		t.Error("releasing again is refused while there is an attachment")
	}
	holds.End("id", second)
	if len(holds.holds) != 0 || holds.Release("id", false) {
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
	if holds.Release("id", false) || !holds.Holding("id") {
		t.Error("nothing is attached, but it was released")
	}
	hold = holds.Begin("id")
	if !holds.Release("id", false) {
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
