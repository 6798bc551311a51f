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
	// Events subscribes to the events of the managed containers. The subscription
	// stands when it returns, and ends with ctx, with the loop over the sequence, or
	// with an error, which comes last. When the connection to the engine breaks it is
	// made again, and what happened meanwhile is caught up with; an engine that stays
	// away for [EventPatience] is [core.ErrUnavailable]. The end of ctx is no error.
	//
	//   - RT-150: started, died with its exit code, and removed, each once and, of one
	//     container, in order.
	//   - RT-151: Container selects one container; Since replays what the engine still knows.
	//     Invalid options: [core.ErrInvalidConfig] with the field's name.
	//   - RT-152: what is not ours is not reported.
	//   - RT-153: when ctx ends, or the loop, the sequence does, and nothing is left.
	Events(ctx context.Context, opts EventOptions) (iter.Seq2[Event, error], error)
}

// EventPatience is how long a broken subscription is tried again.
const EventPatience = time.Minute

// EventOptions selects events.
type EventOptions struct {
	Container string    // its ID or name; empty: all
	Since     time.Time // by the engine's clock; zero: from now on
}

// Validate reports what can be the name of no container, as [core.ErrInvalidConfig] with the
// field's name.
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
