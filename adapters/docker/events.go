package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/system"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// How long to wait between two attempts, at first and at most.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// An engine stamps an event before it puts it into the order in which they are sent: of
// what it sends again, so much may come out of order, and so many events are remembered.
// Engines keep a quarter of that.
const (
	eventOverlap   = 5 * time.Second
	eventsRemember = 1024
)

// eventsSettle is how long after a new subscription an engine may still be sending what
// it has kept. What has not come by then is looked up.
const eventsSettle = time.Second

var eventTypes = map[events.Action]optional.EventType{
	events.ActionStart:   optional.EventStarted,
	events.ActionOOM:     optional.EventOOM,
	events.ActionDie:     optional.EventDied,
	events.ActionDestroy: optional.EventRemoved,
}

// eventOf returns the type of an event, "" for one that is not of a life.
func eventOf(action events.Action) optional.EventType {
	if action == events.ActionRemove { // Podman's
		action = events.ActionDestroy
	}
	return eventTypes[action]
}

// filterEvents adds an event to a filter.
func (r *Runtime) filterEvents(wanted filters.Args, action events.Action) {
	for _, word := range append(r.kind().filters[action], string(action)) {
		wanted.Add("event", word)
	}
}

// The attributes of an event that engines put among the container's labels.
const attributeExitCode = "exitCode"

var attributes = []string{"name", "image", attributeExitCode, "execDuration", "containerExitCode", "podId"}

// Events subscribes to the events of the managed containers. An engine that was
// restarted has forgotten its events, so Events then compares the containers' states. For a
// container that was removed meanwhile it reports only the removal.
func (r *Runtime) Events(ctx context.Context, opts optional.EventOptions) (iter.Seq2[optional.Event, error], error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	c, err := r.begin(ctx, 0, "watch events", r.options.Host)
	if err != nil {
		return nil, err
	}
	w := &watch{runtime: r, call: c, container: opts.Container, from: opts.Since}
	if err := w.begin(); err != nil {
		defer c.end()
		return nil, c.failed(err)
	}
	return w.all, nil
}

// watch is a subscription, made again where it breaks.
type watch struct {
	runtime   *Runtime
	call      *call
	container string

	messages chan events.Message
	failures chan error
	settled  <-chan time.Time // when to look up what has been missed; nil: never

	from    time.Time                     // of the first subscription
	latest  time.Time                     // of an event
	recent  recentEvents                  // which may come again
	running map[string]optional.Event     // by ID, as if they had just been started
	told    map[string]optional.EventType // by ID, found by a request; the engine may still send them
}

// begin finds out what there is, and subscribes.
func (w *watch) begin() (err error) {
	if w.from.IsZero() {
		// Engines answer before they have subscribed: what falls between is asked for
		// again. It is their clock that counts.
		w.from, err = w.engineTime()
	}
	if err == nil {
		w.running, err = w.list()
	}
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(w.call.ctx, w.runtime.timeout)
	defer cancel()
	return w.subscribe(limit)
}

func (w *watch) engineTime() (time.Time, error) {
	info, err := ask(w.call.ctx, w.runtime, w.call.op, w.call.object, func(ctx context.Context) (system.Info, error) {
		return w.runtime.engine.Info(ctx)
	})
	if told := parseTime(info.SystemTime); !told.IsZero() {
		return told, err
	}
	return time.Now(), err
}

// list returns what runs, by ID.
func (w *watch) list() (map[string]optional.Event, error) {
	all, err := ask(w.call.ctx, w.runtime, w.call.op, w.call.object, func(ctx context.Context) ([]container.Summary, error) {
		return w.runtime.engine.ContainerList(ctx, container.ListOptions{Filters: filters.NewArgs(filters.Arg("label", core.LabelManaged+"=true"))})
	})
	running := map[string]optional.Event{}
	for _, summary := range all {
		event := optional.Event{ID: summary.ID, Name: nameOf(summary.Names), Image: w.runtime.kind().familiar(summary.Image), Labels: summary.Labels}
		if w.container == "" || w.container == event.Name || strings.HasPrefix(event.ID, w.container) {
			running[event.ID] = event
		}
	}
	return running, err
}

// subscribe returns when the engine has answered. The SDK's own way may return before it
// tells that the engine has refused.
func (w *watch) subscribe(limit context.Context) error {
	wanted := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("label", core.LabelManaged+"=true"))
	for action := range eventTypes {
		w.runtime.filterEvents(wanted, action)
	}
	if w.container != "" {
		wanted.Add("container", w.container)
	}
	filter, err := filters.ToJSON(wanted)
	if err != nil {
		return err
	}
	since := w.since()
	ctx, cancel := context.WithCancel(w.call.ctx)
	unlimit := context.AfterFunc(limit, cancel)
	body, err := w.runtime.follow(ctx, "/events", url.Values{
		"filters": {filter}, "since": {strconv.FormatInt(since.Unix(), 10) + "." + strconv.Itoa(1_000_000_000 + since.Nanosecond())[1:]},
	})
	if !unlimit() && err != nil {
		err = fmt.Errorf("the engine does not answer: %w", limit.Err())
	}
	if err != nil {
		cancel()
		return err
	}
	w.messages, w.failures = make(chan events.Message), make(chan error, 1)
	go func() {
		defer cancel()
		defer body.Close()
		receiveEvents(ctx, body, w.messages, w.failures)
	}()
	return nil
}

// since is from when on events are asked for.
func (w *watch) since() time.Time {
	since := w.latest.Add(-eventOverlap)
	switch {
	case w.latest.Before(w.from) && !w.latest.IsZero():
		return w.latest // the caller's clock is ahead of the engine's
	case since.Before(w.from):
		return w.from
	}
	return since
}

// receiveEvents passes a subscription's events on until it fails.
func receiveEvents(ctx context.Context, body io.Reader, messages chan<- events.Message, failures chan<- error) {
	for decoder := json.NewDecoder(body); ; {
		var message events.Message
		if err := decoder.Decode(&message); err != nil {
			failures <- err
			return
		}
		select {
		case messages <- message:
		case <-ctx.Done():
			failures <- ctx.Err()
			return
		}
	}
}

// all is the sequence.
func (w *watch) all(yield func(optional.Event, error) bool) {
	defer w.call.end()
	for {
		var happened []optional.Event
		select {
		case message := <-w.messages:
			happened = w.read(message)
		case <-w.settled:
			happened = w.missed()
		case err := <-w.failures:
			if err = w.again(err); err != nil {
				if w.call.caller.Err() == nil {
					yield(optional.Event{}, w.call.failed(err))
				}
				return
			}
		}
		for _, event := range happened {
			if !yield(event, nil) {
				return
			}
		}
	}
}

// read turns a message into an event, unless it has come before.
func (w *watch) read(message events.Message) []optional.Event {
	id, kind := message.Actor.ID, eventOf(message.Action)
	if kind == "" || !w.recent.add(recentEvent{id, kind, message.TimeNano}) {
		return nil
	}
	at := time.Unix(0, message.TimeNano)
	if at.After(w.latest) {
		w.latest = at
	}
	if told := w.told[id]; told == kind || told == optional.EventRemoved {
		return nil
	}
	delete(w.told, id)
	labels := maps.Clone(message.Actor.Attributes)
	event := optional.Event{Type: kind, Time: at.UTC(), ID: id, Name: labels["name"], Image: w.runtime.kind().familiar(labels["image"])}
	if kind == optional.EventDied {
		event.ExitCode, _ = strconv.ParseInt(labels[attributeExitCode], 10, 64)
	}
	for _, attribute := range attributes {
		delete(labels, attribute)
	}
	event.Labels = labels
	w.note(event)
	return []optional.Event{event}
}

func (w *watch) note(event optional.Event) {
	switch event.Type {
	case optional.EventStarted:
		w.running[event.ID] = event
	case optional.EventDied, optional.EventRemoved:
		delete(w.running, event.ID)
	}
}

// again makes a broken subscription again.
func (w *watch) again(err error) error {
	patience, cancel := context.WithTimeout(w.call.ctx, w.runtime.patience)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		select {
		case <-time.After(pause): // also at first: a subscription may break as soon as it is made
		case <-patience.Done():
			if w.call.ctx.Err() != nil {
				return err
			}
			return &causedError{errors.New("the engine stays away: " + err.Error()), errNoPing}
		}
		if err = w.subscribe(patience); err == nil {
			w.settled = time.After(eventsSettle)
			return nil
		}
	}
}

// missed looks up what has happened to containers without an event.
func (w *watch) missed() (missed []optional.Event) {
	w.settled = nil
	w.told = map[string]optional.EventType{}
	now, err := w.list()
	if err != nil {
		w.settled = time.After(lastPause)
		return nil
	}
	for id, event := range now {
		if _, known := w.running[id]; !known {
			missed = append(missed, w.lookUp(event)...)
		}
	}
	for id, event := range maps.Clone(w.running) {
		if _, runs := now[id]; !runs {
			missed = append(missed, w.lookUp(event)...)
		}
	}
	slices.SortFunc(missed, func(a, b optional.Event) int { return a.Time.Compare(b.Time) })
	return missed
}

// lookUp returns the latest event of a container, unless it has been told.
func (w *watch) lookUp(event optional.Event) []optional.Event {
	found, err := w.runtime.inspectContainer(w.call.ctx, event.ID)
	_, running := w.running[event.ID]
	switch {
	case errdefs.IsNotFound(err) && running:
		event.Type, event.Time = optional.EventRemoved, time.Now().UTC()
	case err != nil || found.State.Running == running:
		return nil
	case found.State.Running:
		event.Type, event.Time = optional.EventStarted, parseTime(found.State.StartedAt)
	default:
		event.Type, event.Time, event.ExitCode = optional.EventDied, parseTime(found.State.FinishedAt), int64(found.State.ExitCode)
	}
	w.told[event.ID] = event.Type
	w.note(event)
	return []optional.Event{event}
}

// recentEvent is an event as the engine tells it each time.
type recentEvent struct {
	id       string
	kind     optional.EventType
	timeNano int64
}

// recentEvents remembers the last eventsRemember.
type recentEvents struct {
	known map[recentEvent]bool
	order []recentEvent
}

// add tells whether the event is new.
func (r *recentEvents) add(event recentEvent) bool {
	if r.known == nil {
		r.known = map[recentEvent]bool{}
	}
	if r.known[event] {
		return false
	}
	r.known[event] = true
	if r.order = append(r.order, event); len(r.order) > eventsRemember {
		delete(r.known, r.order[0])
		r.order = r.order[1:]
	}
	return true
}
