package optional

import (
	"context"
	"iter"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/internal/validation"
)

// EventSource is the optional interface for what happens to containers.
type EventSource interface {
	// Events subscribes to the events of the managed containers. When it returns, no later
	// event is missed. The sequence ends when ctx ends, when the caller leaves the loop, or
	// after an error, which is the last element. The end of ctx is not an error. If the
	// connection breaks, Events connects again and delivers the events that happened
	// meanwhile. If it cannot within [EventPatience], the error is [core.ErrUnavailable].
	//
	//   - RT-150: started, died with its exit code, and removed, each once and, of one
	//     container, in order.
	//   - RT-151: Container selects one container; Since replays what the engine still knows.
	//     Invalid options: [core.ErrInvalidConfig] with the field's name.
	//   - RT-152: what is not ours is not reported.
	//   - RT-153: when ctx ends, or the loop, the sequence does, and nothing is left.
	Events(ctx context.Context, opts EventOptions) (iter.Seq2[Event, error], error)
}

// EventPatience is how long Events tries to connect to the engine again.
const EventPatience = time.Minute

// EventOptions selects events.
type EventOptions struct {
	Container string    // its ID or name; empty: all
	Since     time.Time // by the engine's clock; zero: from now on
}

// Validate reports a Container that cannot be a container's name, as [core.ErrInvalidConfig]
// with the field's name.
func (o EventOptions) Validate() error {
	if flaw := validation.Flaw(o.Container); flaw != "" {
		return core.Invalid("Container", "%q %s", o.Container, flaw)
	}
	return nil
}

// EventType says what has happened.
type EventType string

// The events of a container's life.
const (
	EventStarted EventType = "started"
	EventOOM     EventType = "oom"  // a process of it was killed for want of memory
	EventDied    EventType = "died" // ExitCode is set
	EventRemoved EventType = "removed"
)

// Event is what has happened to a container.
type Event struct {
	Type     EventType         `json:"type"`
	Time     time.Time         `json:"time"`
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Image    string            `json:"image"`
	ExitCode int64             `json:"exitcode"` // of EventDied
	Labels   map[string]string `json:"labels,omitempty"`
}
