package run

import (
	"time"

	"github.com/moatproject/moat/core/optional"
)

// State is where a run is in its life.
type State string

// The states of a run.
const (
	StatePreparing State = "preparing" // its parts are being made
	StateHeld      State = "held"      // the workload is created, and its program has not begun
	StateRunning   State = "running"   // the program runs
	StateExited    State = "exited"    // the program has exited; the other parts are still there
	StateLeft      State = "left"      // it goes on without this process
	StateRemoving  State = "removing"  // its parts are being removed
	StateGone      State = "gone"      // nothing is left but what [Spec.Keep] keeps
)

// following are the states that may follow each state.
var following = map[State][]State{
	StatePreparing: {StateHeld, StateLeft, StateRemoving},
	StateHeld:      {StateRunning, StateLeft, StateRemoving},
	StateRunning:   {StateExited, StateLeft, StateRemoving},
	StateExited:    {StateLeft, StateRemoving},
	StateRemoving:  {StateGone},
}

// Step is a part of a run.
type Step string

// The steps of a run, in the order in which they begin.
const (
	StepNetwork  Step = "network"
	StepServices Step = "services"
	StepWorkload Step = "workload"
)

// EventType says what an event tells.
type EventType string

// The types of events.
const (
	EventState     EventType = "state"      // State is new
	EventStepBegun EventType = "step-begun" // Step begins
	EventStepDone  EventType = "step-done"  // Step is done, or Err tells why it failed
	EventLimit     EventType = "limit"      // the workload has reached Limit
	EventEvidence  EventType = "evidence"   // it was tried to get round Egress, and Evidence tells with what result
)

// Event is what has happened to a run.
type Event struct {
	Type     EventType
	Time     time.Time
	RunID    string
	State    State                   // after the event
	Step     Step                    // of the step events
	Limit    Limit                   // of [EventLimit]
	Evidence optional.EgressEvidence // of [EventEvidence]
	Err      error                   // why a step failed, or in [StateRemoving] why parts could not be removed
}

// StepError tells which part of a run could not be made or started. Its text is the
// cause's.
type StepError struct {
	Step Step
	Err  error
}

func (e *StepError) Error() string { return e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }
