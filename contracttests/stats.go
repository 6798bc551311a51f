package contracttests

import (
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func statsCases() []Case {
	c := func(number, title string, check func(*fixture)) Case {
		return Case{Number: number, Title: title, check: check, ability: implements[optional.StatsReader](), unsupported: noPort}
	}
	return []Case{
		c("RT-160", "stats measure a container", stats),
		c("RT-161", "stats of what does not run", statsWrongState),
	}
}

func stats(f *fixture) {
	reader := portOf[optional.StatsReader](f)
	id := f.ready(f.agent("say ready", "busy"))
	first, err := reader.Stats(f.ctx, id)
	f.must(err)
	if first.Time.IsZero() || first.Memory == 0 || first.MemoryLimit == 0 || first.PIDs == 0 {
		f.Errorf("a busy container measures %+v", first)
	}
	if !eventually(func() bool {
		later, err := reader.Stats(f.ctx, id)
		f.must(err)
		return later.CPU > first.CPU && later.Time.After(first.Time)
	}) {
		f.Errorf("a busy container's CPU time stays at %s", first.CPU)
	}
}

func statsWrongState(f *fixture) {
	reader := portOf[optional.StatsReader](f)
	_, err := reader.Stats(f.ctx, f.missing())
	f.wantClass("stats of what is missing", err, core.ErrNotFound)
	_, err = reader.Stats(f.ctx, f.create(f.idle()))
	f.wantClass("stats of what was never started", err, core.ErrNotRunning)
	id := f.started(f.agent())
	f.wait(id)
	_, err = reader.Stats(f.ctx, id)
	f.wantClass("stats of what has exited", err, core.ErrNotRunning)
}
