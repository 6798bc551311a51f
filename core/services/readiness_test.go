package services_test

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
	"github.com/moatproject/moat/core/services"
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
		err := services.WaitReady(t.Context(), answers(func(context.Context) error {
			if asked = append(asked, time.Since(begin).Round(time.Millisecond)); len(asked) < 40 {
				return errStarting
			}
			return nil
		}), db, 0)
		at := func(ms ...int) (times []time.Duration) {
			for _, n := range ms {
				times = append(times, time.Duration(n)*time.Millisecond)
			}
			return times
		}
		if err != nil || len(asked) != 40 {
			t.Fatalf("%v, asked at %v", err, asked)
		}
		if want := at(0, 50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 550, 605, 666, 732); !slices.Equal(asked[:15], want) {
			t.Errorf("at first:\ngot  %v\nwant %v", asked[:15], want)
		}
		if last := asked[39] - asked[38]; last != 200*time.Millisecond {
			t.Errorf("at last after %s", last)
		}
	})
}

// watched are answers of a manager that is told of deaths, and of a log.
type watched struct {
	answers
	death func(context.Context) error
	log   func(context.Context) (string, error)
}

func (w watched) AwaitDeath(ctx context.Context, _ core.ServiceInfo) error { return w.death(ctx) }
func (w watched) LogTail(ctx context.Context, _ core.ServiceInfo) (string, error) {
	return w.log(ctx)
}

func forever(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestWaitReadyIsToldOfADeath(t *testing.T) {
	const late = 1970 * time.Millisecond // within a pause
	died := &core.Error{Op: "check service", Class: core.ErrNotRunning}
	for name, check := range map[string]answers{
		"between checks":   func(context.Context) error { return errStarting },
		"during the first": forever,
		"during one that then tells another thing": func(ctx context.Context) error {
			<-ctx.Done()
			return &core.Error{Op: "exec", Class: core.ErrUnavailable, Err: ctx.Err()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				err := services.WaitReady(t.Context(), watched{answers: check, death: func(ctx context.Context) error {
					select {
					case <-time.After(late):
						return died
					case <-ctx.Done():
						return ctx.Err()
					}
				}}, db, time.Minute)
				if took := time.Since(begin); !errors.Is(err, core.ErrNotRunning) || errors.Is(err, core.ErrTimeout) || took != late {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

func TestWaitReadyWhereDeathsAreNotTold(t *testing.T) {
	for name, death := range map[string]func(context.Context) error{
		"not known": func(context.Context) error { return core.ErrUnavailable },
		"none":      forever,
	} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			err := services.WaitReady(t.Context(), watched{answers: func(context.Context) error {
				if asked++; asked < 5 {
					return errStarting
				}
				return nil
			}, death: death}, db, time.Minute)
			if err != nil || asked != 5 { // and synctest sees to it that nothing goes on
				t.Errorf("%s: asked %d times: %v", name, asked, err)
			}
		})
	}
}

func TestWaitReadyShowsTheLogInTheEnd(t *testing.T) {
	for name, test := range map[string]struct {
		log    func(context.Context) (string, error)
		cancel bool
		took   time.Duration
		want   string
	}{
		"something":     {func(context.Context) (string, error) { return "no space left", nil }, false, time.Second, "still starting. Its log ends with: no space left"},
		"nothing":       {func(context.Context) (string, error) { return "", nil }, false, time.Second, "still starting. Its log ends with: nothing"},
		"lost":          {func(context.Context) (string, error) { return "some", errStarting }, false, time.Second, "still starting"},
		"hangs":         {func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }, false, 1500 * time.Millisecond, "still starting"},
		"not asked for": {func(context.Context) (string, error) { panic("cancelled") }, true, time.Second, "still starting"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				timeout := time.Second
				if test.cancel {
					timeout = time.Minute
					time.AfterFunc(time.Second, cancel)
				}
				manager := watched{answers: func(context.Context) error { return errStarting }, death: forever, log: test.log}
				err := services.WaitReady(ctx, manager, db, timeout)
				if took := time.Since(begin); took != test.took || !errors.Is(err, errStarting) || errors.Is(err, core.ErrTimeout) == test.cancel {
					t.Errorf("after %s: %v", took, err)
				}
				if !strings.HasSuffix(err.Error(), test.want) {
					t.Errorf("got %v, want it to end with %q", err, test.want)
				}
			})
		})
	}
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
					err := services.WaitReady(ctx, answers(func(ctx context.Context) error {
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
		err := services.WaitReady(t.Context(), answers(func(ctx context.Context) error {
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
			err := services.WaitReady(t.Context(), answers(func(context.Context) error {
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
		err := services.WaitReady(t.Context(), answers(func(ctx context.Context) error {
			<-ctx.Done()
			return &core.Error{Op: "check service", Class: core.ErrNotRunning}
		}), db, time.Second)
		if !errors.Is(err, core.ErrNotRunning) || errors.Is(err, core.ErrTimeout) {
			t.Error(err)
		}
	})
}
