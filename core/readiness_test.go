package core_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moatproject/moat/core"
)

// answers is a service manager whose readiness is told by a function.
type answers func(context.Context) error

func (a answers) CheckReady(ctx context.Context, _ core.ServiceInfo) error { return a(ctx) }
func (a answers) StartService(context.Context, core.ServiceConfig) (core.ServiceInfo, error) {
	panic("not waited for")
}
func (a answers) StopService(context.Context, core.ServiceInfo) error { panic("not waited for") }
func (a answers) SetNetworkID(string)                                 { panic("not waited for") }

var (
	db          = core.ServiceInfo{Name: "db"}
	errStarting = errors.New("still starting")
)

func TestWaitReadyPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var asked []time.Duration
		err := core.WaitReady(t.Context(), answers(func(context.Context) error {
			if asked = append(asked, time.Since(begin).Round(time.Millisecond)); len(asked) < 12 {
				return errStarting
			}
			return nil
		}), db, 0)
		ms := []int{0, 50, 125, 238, 406, 659, 1039, 1609, 2463, 3463, 4463, 5463}
		var want []time.Duration
		for _, n := range ms {
			want = append(want, time.Duration(n)*time.Millisecond)
		}
		if err != nil || !slices.Equal(asked, want) {
			t.Errorf("%v\ngot  %v\nwant %v", err, asked, want)
		}
	})
}

func TestWaitReadyGivesUp(t *testing.T) {
	long := 10 * time.Minute
	tests := []struct {
		name              string
		timeout, deadline time.Duration
		cancel            bool
		want              time.Duration
	}{
		{"by default", 0, long, false, 2 * time.Minute},
		{"after the timeout", 3 * time.Second, long, false, 3 * time.Second},
		{"at the context's deadline", long, 4 * time.Second, false, 4 * time.Second},
		{"when cancelled", long, 4 * time.Second, true, 4 * time.Second},
	}
	for _, test := range tests {
		for _, hangs := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, ", check hangs ", hangs), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), test.deadline)
					want := context.DeadlineExceeded
					if test.cancel {
						ctx, cancel = context.WithCancel(t.Context())
						time.AfterFunc(test.deadline, cancel)
						want = context.Canceled
					}
					defer cancel()
					begin, first := time.Now(), true
					err := core.WaitReady(ctx, answers(func(ctx context.Context) error {
						if hangs && !first {
							<-ctx.Done()
							return &core.Error{Op: "exec", Class: core.ErrUnavailable, Err: ctx.Err()}
						}
						first = false
						return errStarting
					}), db, test.timeout)
					if took := time.Since(begin); took != test.want {
						t.Errorf("took %s", took)
					}
					if !errors.Is(err, want) || !errors.Is(err, errStarting) || errors.Is(err, core.ErrTimeout) == test.cancel {
						t.Errorf("got %v", err)
					}
					if text := err.Error(); !strings.Contains(text, `"db"`) || !strings.Contains(text, "still starting") {
						t.Errorf("it does not say enough: %s", text)
					}
				})
			})
		}
	}
}

func TestWaitReadyWhereTheFirstCheckHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := core.WaitReady(t.Context(), answers(func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}), db, time.Second)
		if !errors.Is(err, core.ErrTimeout) || strings.Contains(err.Error(), "%!") {
			t.Error(err)
		}
	})
}

func TestWaitReadyEndsAtOnce(t *testing.T) {
	final := []error{core.ErrNotRunning, core.ErrNotFound, core.ErrInvalidConfig, core.ErrUnsupported, core.ErrUnavailable}
	all := slices.Concat(final, []error{core.ErrAlreadyExists, core.ErrInUse, core.ErrPolicyNotEnforced, core.ErrTimeout})
	for i, class := range all {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			err := core.WaitReady(t.Context(), answers(func(context.Context) error {
				asked++
				return &core.Error{Op: "check service", Class: class}
			}), db, time.Minute)
			if atOnce := i < len(final); !errors.Is(err, class) || (asked == 1) != atOnce || errors.Is(err, core.ErrTimeout) == atOnce {
				t.Errorf("%v: asked %d times: %v", class, asked, err)
			}
		})
	}
}

func TestWaitReadyTellsOfADeathAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := core.WaitReady(t.Context(), answers(func(ctx context.Context) error {
			<-ctx.Done()
			return &core.Error{Op: "check service", Class: core.ErrNotRunning}
		}), db, time.Second)
		if !errors.Is(err, core.ErrNotRunning) || errors.Is(err, core.ErrTimeout) {
			t.Error(err)
		}
	})
}
