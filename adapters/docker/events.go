package docker

import (
	"context"
	"iter"
	"maps"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/moatproject/moat/core"
)

// How long to wait between two attempts, at first and at most.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

var eventTypes = map[events.Action]core.EventType{
	events.ActionStart:   core.EventStarted,
	events.ActionOOM:     core.EventOOM,
	events.ActionDie:     core.EventDied,
	events.ActionDestroy: core.EventRemoved,
}

// Events subscribes to the events of the managed containers. An engine that was
// restarted has forgotten its events: of the containers that this sequence has seen
// start, those that ended meanwhile are looked up.
func (r *Runtime) Events(ctx context.Context, opts core.EventOptions) (iter.Seq2[core.Event, error], error) {
	c, err := r.begin(ctx, 0, "watch events", r.options.Host)
	if err != nil {
		return nil, err
	}
	w := &watch{runtime: r, call: c, container: opts.Container, since: opts.Since, running: map[string]core.Event{}}
	if w.since.IsZero() {
		// Engines answer before they have subscribed: what falls between is asked for again.
		w.since = time.Now()
	}
	w.subscribe()
	select {
	case err := <-w.failures:
		defer c.end()
		return nil, c.failed(err)
	default:
		return w.all, nil
	}
}

// watch is a subscription, made again where it breaks.
type watch struct {
	runtime   *Runtime
	call      *call
	container string

	messages <-chan events.Message
	failures <-chan error
	since    time.Time
	seen     map[string]bool       // the events at since, which come again
	running  map[string]core.Event // by ID, the start of each that has not ended
}

// subscribe returns when the engine has answered.
func (w *watch) subscribe() {
	wanted := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("label", core.LabelManaged+"=true"))
	for action := range eventTypes {
		wanted.Add("event", string(action))
	}
	if w.container != "" {
		wanted.Add("container", w.container)
	}
	since := strconv.FormatInt(w.since.Unix(), 10) + "." + strconv.Itoa(1_000_000_000 + w.since.Nanosecond())[1:]
	w.messages, w.failures = w.runtime.engine.Events(w.call.ctx, events.ListOptions{Since: since, Filters: wanted})
}

// all is the sequence.
func (w *watch) all(yield func(core.Event, error) bool) {
	defer w.call.end()
	for {
		select {
		case message := <-w.messages:
			if event, isNew := w.read(message); isNew && !yield(event, nil) {
				return
			}
		case err := <-w.failures:
			missed, err := w.again(err)
			for _, event := range missed {
				if !yield(event, nil) {
					return
				}
			}
			if err != nil {
				if w.call.caller.Err() == nil {
					yield(core.Event{}, w.call.failed(err))
				}
				return
			}
		}
	}
}

// read turns a message into an event, unless it has come before.
func (w *watch) read(message events.Message) (event core.Event, isNew bool) {
	at, key := time.Unix(0, message.TimeNano), message.Actor.ID+string(message.Action)
	if at.Before(w.since) || (at.Equal(w.since) && w.seen[key]) {
		return core.Event{}, false
	}
	if at.After(w.since) {
		w.since, w.seen = at, map[string]bool{}
	}
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	w.seen[key] = true
	labels := maps.Clone(message.Actor.Attributes)
	event = core.Event{
		Type: eventTypes[message.Action], Time: at.UTC(), ID: message.Actor.ID, Name: labels["name"], Image: labels["image"],
	}
	if event.Type == core.EventDied {
		event.ExitCode, _ = strconv.ParseInt(labels["exitCode"], 10, 64)
	}
	// What the engine puts among the labels.
	for _, attribute := range []string{"name", "image", "exitCode", "execDuration"} {
		delete(labels, attribute)
	}
	event.Labels = labels
	w.note(event)
	return event, true
}

func (w *watch) note(event core.Event) {
	switch event.Type {
	case core.EventStarted:
		w.running[event.ID] = event
	case core.EventDied, core.EventRemoved:
		delete(w.running, event.ID)
	}
}

// again makes the subscription again. Where the engine was away it returns what has
// been missed.
func (w *watch) again(err error) (missed []core.Event, _ error) {
	ctx := w.call.ctx
	patience, retry, away := time.After(core.EventPatience), firstPause, false
	for {
		if ctx.Err() != nil {
			return nil, err
		}
		w.subscribe()
		select {
		case err = <-w.failures:
			away = true
		default:
			if away {
				return w.missed(), nil
			}
			return nil, nil
		}
		select {
		case <-time.After(retry):
			retry = min(2*retry, lastPause)
		case <-patience:
			return nil, err
		case <-ctx.Done():
			return nil, err
		}
	}
}

// missed looks up what became of the containers that ran before.
func (w *watch) missed() (missed []core.Event) {
	for id, event := range maps.Clone(w.running) {
		found, err := w.runtime.engine.ContainerInspect(w.call.ctx, id)
		switch {
		case errdefs.IsNotFound(err):
			event.Type, event.Time = core.EventRemoved, time.Now().UTC()
		case err != nil || found.State.Running:
			continue
		default:
			event.Type, event.Time, event.ExitCode = core.EventDied, parseTime(found.State.FinishedAt), int64(found.State.ExitCode)
		}
		w.note(event)
		missed = append(missed, event)
	}
	return missed
}
