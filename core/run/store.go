package run

import "time"

// Labels of a run's containers and network, beside core's.
const (
	// LabelOwner is the name of the [Store] that knows whether the run is alive.
	LabelOwner = "moat.run.owner"

	// LabelForeground is "false" on the workload of a detached run, and "true" on every
	// other. A run with "true" ends with its process, unless the process called Leave. The
	// run sets the label, so one of the image has no effect.
	LabelForeground = "moat.run.foreground"
)

// Store knows which runs are alive. Several processes of one owner share one, and it
// outlives them. It is safe for concurrent use.
type Store interface {
	// Owner returns a name that no other store has, on any machine: machines may share
	// an engine.
	Owner() (string, error)

	// Claim marks a run as alive until the claim is released, or its process dies.
	Claim(runID string) (Claim, error)

	// Liveness returns the state of a run's mark, and changes nothing. If the mark cannot be
	// read, the result is LivenessLive.
	Liveness(runID string) Liveness

	// Ended lists the runs that are remembered and have no process.
	Ended() []string

	// Forget forgets a run of which nothing is left on this engine, unless its process
	// lives, or the run was made on another engine. seen tells that parts of it were
	// on this one.
	Forget(runID string, seen bool)
}

// Claim is a run's mark in a [Store].
type Claim interface {
	// Release ends the claim. It is called once.
	Release(how Ending)
}

// Ending is how a process parts from its run.
type Ending int

// The endings.
const (
	EndingClean   Ending = iota // nothing of the run needs this process any more
	EndingLeft                  // the run goes on
	EndingPartial               // something of it could not be removed
)

// Liveness is what a [Store] knows of a run.
type Liveness int

// What can be known of a run.
const (
	LivenessUnknown Liveness = iota // no mark: it ended normally, was detached, or the mark was lost
	LivenessKilled                  // its process was killed, or could not remove everything
	LivenessLeft                    // its process has ended, the run goes on
	LivenessLive                    // its process lives
)

// Clock is the time.
type Clock interface {
	Now() time.Time

	// AfterFunc calls f in a goroutine of its own when d has passed, unless stop is
	// called before.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

// SystemClock is the time of this process.
type SystemClock struct{}

// Now is [time.Now].
func (SystemClock) Now() time.Time { return time.Now() }

// AfterFunc is [time.AfterFunc].
func (SystemClock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	return time.AfterFunc(d, f).Stop
}
