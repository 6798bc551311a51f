package core_test

import (
	"context"
	"sync/atomic"

	"github.com/moatproject/moat/core"
)

// fake is a runtime of which only what detection and lookups call is there; the
// rest panics.
type fake struct {
	core.Runtime
	ping   func(context.Context) error // nil: answers
	closed atomic.Int32
}

func (f *fake) Ping(ctx context.Context) error {
	if f.ping == nil {
		return nil
	}
	return f.ping(ctx)
}

func (f *fake) Close() error {
	f.closed.Add(1)
	return nil
}

// decorated wraps a runtime as decorators do.
type decorated struct{ core.Runtime }

func (d decorated) Unwrap() core.Runtime { return d.Runtime }

// opaque wraps a runtime without telling.
type opaque struct{ core.Runtime }
