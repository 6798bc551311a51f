package contracttests

import (
	"slices"

	"github.com/moatproject/moat/core"
)

func listCases() []Case {
	return []Case{
		{Number: "RT-65", Title: "the list tells everything of ours", check: list},
		{Number: "RT-66", Title: "a removed container is not listed", check: listAfterRemoval},
	}
}

func list(f *fixture) {
	var ids []string
	for _, name := range []string{"older-" + f.runID, "newer-" + f.runID} {
		cfg := f.agent()
		cfg.Name = name
		ids = append(ids, f.create(cfg))
	}
	all, err := f.rt.ListContainers(f.ctx)
	f.must(err)
	for _, info := range all {
		if !core.IsManaged(info.Name, info.Labels) {
			f.Errorf("listed although it is not ours: %+v", info)
		}
	}
	position := map[string]int{}
	for i, id := range ids {
		at := slices.IndexFunc(all, func(info core.Info) bool { return info.ID == id })
		if at < 0 {
			f.Errorf("container %s is not listed", id)
			continue
		}
		position[id] = at
		info := all[at]
		want(f, "Name", info.Name, []string{"older-", "newer-"}[i]+f.runID)
		want(f, "Image", info.Image, f.h.Image)
		want(f, "Status", info.Status, core.StateCreated)
		want(f, "the label of the run", info.Labels[core.LabelRunID], f.runID)
		if info.Created.IsZero() {
			f.Errorf("container %s has no creation time", id)
		}
	}
	if position[ids[0]] < position[ids[1]] {
		f.Errorf("the older container is listed before the newer one")
	}
}

func listAfterRemoval(f *fixture) {
	id := f.create(f.agent())
	f.remove(id)
	if slices.ContainsFunc(f.list(), func(info core.Info) bool { return info.ID == id }) {
		f.Errorf("container %s is listed after its removal", id)
	}
}
