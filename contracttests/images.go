package contracttests

import (
	"errors"
	"slices"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// These cases are serial where they remove or pull the image to pull.
func imageCases() []Case {
	return []Case{
		{Number: "RT-80", Title: "the list of images", check: images},
		{Number: "RT-81", Title: "removing an image that is missing", check: removeMissingImage},
		{Number: "RT-82", Title: "an image in use stays", Serial: true, check: removeUsedImage},
		{
			Number: "RT-83", Title: "pull with progress", Serial: true, check: pull,
			ability: implements[optional.ImagePuller](), unsupported: noPort,
		},
		{
			Number: "RT-84", Title: "a pull that fails", check: failedPulls,
			ability: implements[optional.ImagePuller](), unsupported: noPort,
		},
		{Number: "CF-27", Title: "Pull says when an image is pulled", Serial: true, check: pullPolicies, fields: []string{"Pull"}},
	}
}

func images(f *fixture) {
	all, err := f.rt.ListImages(f.ctx)
	f.must(err)
	if !slices.IsSortedFunc(all, func(a, b core.ImageInfo) int { return strings.Compare(a.Tag, b.Tag) }) {
		f.Errorf("the list is not sorted by tag")
	}
	for _, info := range all {
		if !strings.HasPrefix(info.Tag, core.ImagePrefix) {
			f.Errorf("listed although it is not ours: %+v", info)
		}
		if info.Tag == f.h.Image && (info.ID == "" || info.Size <= 0 || info.Created.IsZero()) {
			f.Errorf("ID, size or creation time is missing: %+v", info)
		}
	}
	if !slices.ContainsFunc(all, func(info core.ImageInfo) bool { return info.Tag == f.h.Image }) {
		f.Errorf("%s is not listed", f.h.Image)
	}
}

func removeMissingImage(f *fixture) {
	f.must(f.rt.RemoveImage(f.ctx, f.missingLocalImage()))
}

// pulled creates a container of the image to pull.
func (f *fixture) pulled(policy core.PullPolicy) (id string, err error) {
	cfg := f.agent("say pulled")
	cfg.Image, cfg.Pull = f.pullImage(), policy
	return f.tryCreate(cfg)
}

// dropImage removes the image to pull, now and at the case's end.
func (f *fixture) dropImage() {
	f.Helper()
	f.must(f.rt.RemoveImage(f.ctx, f.pullImage()))
	if len(f.images) == 0 {
		f.images = append(f.images, f.pullImage())
	}
}

func removeUsedImage(f *fixture) {
	f.dropImage()
	id, err := f.pulled(core.PullMissing)
	f.must(err)
	f.wantClass("removing an image that a container uses", f.rt.RemoveImage(f.ctx, f.pullImage()), core.ErrInUse)
	f.remove(id)
	f.must(f.rt.RemoveImage(f.ctx, f.pullImage()))
	_, err = f.pulled(core.PullNever)
	f.wantClass("using an image that was removed", err, core.ErrNotFound)
}

func pull(f *fixture) {
	f.dropImage()
	var steps []optional.PullProgress
	f.must(portOf[optional.ImagePuller](f).PullImage(f.ctx, f.pullImage(), func(step optional.PullProgress) {
		steps = append(steps, step) // the race detector sees concurrent calls
	}))
	if len(steps) == 0 {
		f.Errorf("no progress was told")
	}
	for _, step := range steps {
		if step.Image != f.pullImage() || step.Status == "" || step.Current < 0 || step.Total < 0 {
			f.Errorf("a step of the pull is %+v", step)
		}
	}
	id, err := f.pulled(core.PullNever)
	f.must(err)
	f.start(id)
	want(f, "the exit code of the pulled image", f.wait(id), 0)
	f.must(portOf[optional.ImagePuller](f).PullImage(f.ctx, f.pullImage(), nil))

	f.remove(id)
	f.dropImage()
	told := 0
	cfg := f.agent()
	cfg.Image, cfg.Pull = f.pullImage(), core.PullMissing
	id, err = f.rt.CreateContainer(optional.WithPullProgress(f.ctx, func(optional.PullProgress) { told++ }), cfg)
	f.must(err)
	f.created = append(f.created, id)
	if told == 0 {
		f.Errorf("CreateContainer told its context's sink nothing of the pull")
	}
}

func failedPulls(f *fixture) {
	puller := portOf[optional.ImagePuller](f)
	f.wantClass("pulling what the registry does not have", puller.PullImage(f.ctx, f.missingImage(), nil), core.ErrNotFound)
	f.wantClass("pulling from a registry that does not answer", puller.PullImage(f.ctx, f.h.UnreachableImage, nil), core.ErrUnavailable)
}

func pullPolicies(f *fixture) {
	f.pullPolicies(func(image string, policy core.PullPolicy) error {
		cfg := f.agent()
		cfg.Image, cfg.Pull = image, policy
		_, err := f.tryCreate(cfg)
		return err
	})
}

// pullPolicies tries each policy with a method that creates a container of an image.
func (f *fixture) pullPolicies(create func(image string, policy core.PullPolicy) error) {
	f.Helper()
	f.dropImage()
	for range 2 { // the first one has not pulled it either
		f.wantClass("never pulling an absent image", create(f.pullImage(), core.PullNever), core.ErrNotFound)
	}
	// The zero policy is to pull here, where the image is missing; PullNever shows that it did.
	for _, policy := range []core.PullPolicy{"", core.PullNever, core.PullAlways} {
		if err := create(f.pullImage(), policy); err != nil {
			f.Errorf("pull policy %q: %v", policy, err)
		}
	}

	// No registry has this image, so an error tells that one was asked.
	if err := create(f.h.Image, core.PullAlways); !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrUnavailable) {
		f.Errorf("pull policy %q: %v for an image that no registry has", core.PullAlways, err)
	}
}
