package contracttests

import (
	"context"
	"fmt"
	"iter"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func eventCases() []Case {
	c := func(number, title string, check func(*fixture)) Case {
		return Case{Number: number, Title: title, check: check, ability: implements[optional.EventSource](), unsupported: noPort}
	}
	return []Case{
		c("RT-150", "a life's events come in order", lifeEvents),
		c("RT-151", "events are selected and replayed", selectedEvents),
		c("RT-152", "events of others are not reported", foreignEvents),
		c("RT-153", "the context ends the events", eventsEnd),
	}
}

func (f *fixture) subscribe(ctx context.Context, opts optional.EventOptions) iter.Seq2[optional.Event, error] {
	f.Helper()
	events, err := portOf[optional.EventSource](f).Events(ctx, opts)
	f.must(err)
	return events
}

// take returns the next n events of one container.
func (f *fixture) take(events iter.Seq2[optional.Event, error], id string, n int) []optional.Event {
	f.Helper()
	taken, err := begin(fmt.Sprintf("the loop over the events of container %s", id), func() (taken []optional.Event, _ error) {
		for event, err := range events {
			if err != nil {
				return taken, err
			}
			if event.ID != id {
				continue
			}
			if taken = append(taken, event); len(taken) == n {
				break
			}
		}
		return taken, nil
	}).until(fmt.Sprintf("%d events of the container have happened", n)).result(f)
	f.must(err)
	return taken
}

// brief is an event without what differs from run to run.
func brief(events []optional.Event) (text string) {
	for _, event := range events {
		text += fmt.Sprintf("%s %d, ", event.Type, event.ExitCode)
	}
	return text
}

const wholeLife = "started 0, died 42, removed 0, "

func lifeEvents(f *fixture) {
	events := f.subscribe(f.ctx, optional.EventOptions{})
	cfg := f.agent("exit 42")
	cfg.Name = "events-" + f.runID
	id := f.started(cfg)
	f.wait(id)
	f.remove(id)
	taken := f.take(events, id, 3)
	want(f, "a container's events", brief(taken), wholeLife)
	for _, event := range taken {
		if event.Name != cfg.Name || event.Image != cfg.Image || event.Labels[core.LabelRunID] != f.runID || event.Time.IsZero() {
			f.Errorf("an event is %+v", event)
		}
	}
}

func selectedEvents(f *fixture) {
	other, id := f.create(f.agent("exit 1")), f.create(f.agent("exit 42"))
	before := f.listed(other).Created // by the engine's clock
	for _, started := range []string{other, id} {
		f.start(started)
		f.wait(started)
	}
	taken := f.take(f.subscribe(f.ctx, optional.EventOptions{Container: id, Since: before}), id, 2)
	want(f, "the events of before", brief(taken), "started 0, died 42, ")
	events := f.subscribe(f.ctx, optional.EventOptions{Container: id})
	f.remove(id)
	for event, err := range events {
		f.must(err)
		if event.ID != id || event.Type != optional.EventRemoved {
			f.Errorf("among the events of %s from now on is %+v", id, event)
		}
		break
	}
}

// foreignEvents has only this suite's containers to tell: what it checks is that
// each event carries Moat's label.
func foreignEvents(f *fixture) {
	events := f.subscribe(f.ctx, optional.EventOptions{})
	id := f.started(f.agent("exit 42"))
	f.wait(id)
	f.remove(id)
	for event, err := range events {
		f.must(err)
		if event.Labels[core.LabelManaged] != "true" {
			f.Errorf("an event of what is not ours: %+v", event)
		}
		if event.ID == id && event.Type == optional.EventRemoved {
			break
		}
	}
}

func eventsEnd(f *fixture) {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	events := f.subscribe(ctx, optional.EventOptions{Container: f.create(f.idle())})
	ranging := begin("the loop over the events", func() (n int, err error) {
		for _, err = range events {
			n++
		}
		return n, err
	})
	ranging.goesOn(f)
	cancel()
	n, err := ranging.until("its context has ended").result(f)
	f.must(err)
	want(f, "the number of events", n, 0)
}
