package contracttests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/fstest"
	"time"

	"github.com/moatproject/moat/core"
)

// These cases are serial where they remove or pull the image to pull.
func buildCases() []Case {
	one := func(number, title string, check func(*fixture)) Case {
		return Case{
			Number: number, Title: title, check: check, ability: capability("BuildManager"),
			unsupported: func(f *fixture, _ string) error {
				_, err := core.BuildManagerOf(f.rt)
				return err
			},
		}
	}
	serial := func(c Case) Case {
		c.Serial = true
		return c
	}
	return []Case{
		one("BM-01", "an image is what its Dockerfile says", builtImage),
		one("BM-02", "ContextFiles are files to copy", contextFiles),
		one("BM-03", "Context is a folder to copy", contextFolder),
		one("BM-04", "a step that fails tells where and why", failedStep),
		one("BM-05", "what is no Dockerfile is refused", noDockerfile),
		one("BM-06", "what a Dockerfile names and does not exist", missingSources),
		one("BM-07", "NoCache says what is reused", buildCache),
		one("BM-08", "Args are the values of ARG", buildArgs),
		one("BM-09", "every step of a build is told", buildProgress),
		one("BM-10", "a build that is cancelled tags nothing", cancelledBuild),
		one("BM-11", "what no builder could honour is refused", impossibleBuilds),
		serial(one("BM-12", "an image exists or does not", imageExists)),
		serial(one("BM-13", "the home folder of an image", imageHomes)),
		{Number: "BM-14", Title: "links of Context stay links", check: contextLinks, unsupported: func(f *fixture, _ string) error {
			return f.tryBuild(f.tag(), f.dockerfile("COPY . /context/"), core.BuildOptions{Context: linkedContext()})
		}},
		{Number: "BM-15", Title: "DNS is for the steps of a build", check: buildDNS, unsupported: func(f *fixture, _ string) error {
			tag := f.tag()
			err := f.tryBuild(tag, f.dockerfile("RUN true"), core.BuildOptions{DNS: []string{"192.0.2.53"}})
			f.wantImage(tag, false)
			return err
		}},
		serial(one("BM-16", "a missing base image is pulled", pulledBase)),
		one("BM-17", "what of Context cannot be copied fails the build", unreadableContext),
	}
}

func (f *fixture) builds() core.BuildManager {
	f.Helper()
	manager, err := core.BuildManagerOf(f.rt)
	f.must(err)
	return manager
}

// tag returns a new one, whose image is removed when the case ends.
func (f *fixture) tag() string {
	tag := core.ImagePrefix + f.runID + ":" + uniqueText()
	f.images = slices.Insert(f.images, 0, tag) // what is built on others goes first
	return tag
}

// dockerfile is one of the suite's image and these lines.
func (f *fixture) dockerfile(lines ...string) string {
	return "FROM " + f.h.Image + "\n" + strings.Join(lines, "\n") + "\n"
}

func (f *fixture) tryBuild(tag, dockerfile string, opts core.BuildOptions) error {
	manager, err := core.BuildManagerOf(f.rt)
	if err != nil {
		return err
	}
	opts.RunID = f.runID
	return manager.BuildImage(f.ctx, dockerfile, tag, opts)
}

// build returns the tag of a new image.
func (f *fixture) build(dockerfile string, opts core.BuildOptions) (tag string) {
	f.Helper()
	tag = f.tag()
	f.must(f.tryBuild(tag, dockerfile, opts))
	return tag
}

// ofImage is a container's configuration there; without a script it runs the image's
// own command.
func (f *fixture) ofImage(tag, script string) core.Config {
	cfg := f.command()
	if script != "" {
		cfg = f.shell(script)
	}
	cfg.Image, cfg.Pull = tag, core.PullNever
	return cfg
}

// wantSaid checks what a container of an image writes.
func (f *fixture) wantSaid(tag, script, said string) {
	f.Helper()
	want(f, "what a container of the image says", f.output(f.ofImage(tag, script)), said)
}

func (f *fixture) wantImage(tag string, there bool) {
	f.Helper()
	manager, err := core.BuildManagerOf(f.rt)
	if err != nil {
		return // what is unsupported has its own check
	}
	found, err := manager.ImageExists(f.ctx, tag)
	f.must(err)
	want(f, "whether the image "+tag+" exists", found, there)
}

// wantBuildError checks a failure's shape, and returns where it happened: never nil.
func (f *fixture) wantBuildError(what string, err error) *core.BuildError {
	f.Helper()
	if e, ok := errors.AsType[*core.Error](err); !ok || e.Op == "" || e.Runtime != f.rt.Type() {
		f.Errorf("%s returned %v, which tells no operation and runtime", what, err)
	}
	failed, ok := errors.AsType[*core.BuildError](err)
	if !ok {
		f.Errorf("%s returned %v, without a %T", what, err, failed)
		return &core.BuildError{}
	}
	return failed
}

func builtImage(f *fixture) {
	opts := core.BuildOptions{Labels: map[string]string{"team": "blue", "kind": "of the options"}}
	base := f.build(f.dockerfile(
		`LABEL origin=dockerfile team=red`,
		`ENV GREETING="hello there" EMPTY=`,
		`WORKDIR /made`,
		`WORKDIR deep`,
		`RUN echo "built by $(id -u) in $(pwd)" >built`,
		`RUN ["sh", "-c", "echo it is $0 >>built", "$GREETING"]`,
		`USER 1000`,
		`EXPOSE 8080`,
		`ENTRYPOINT ["sh", "-c", "echo \"$0 $* $GREETING from $(id -u) in $(pwd)\"; cat built"]`,
		`CMD ["as", "said"]`,
	), opts)
	f.wantSaid(base, "", "as said hello there from 1000 in /made/deep\nbuilt by 0 in /made/deep\nit is $GREETING\n")

	all, err := f.rt.ListImages(f.ctx)
	f.must(err)
	i := slices.IndexFunc(all, func(info core.ImageInfo) bool { return info.Tag == base })
	if i < 0 || all[i].ID == "" || all[i].Size <= 0 || all[i].Created.IsZero() {
		f.Errorf("%s is not listed with ID, size and time: %+v", base, all)
	}

	cfg := f.ofImage(base, "")
	cfg.Name, cfg.Labels = "labelled-"+f.runID, map[string]string{"kind": "of the container"}
	f.create(cfg)
	f.wantLabels(cfg.Name, map[string]string{
		"origin": "dockerfile", "team": "blue", "kind": "of the container",
		core.LabelManaged: "true", core.LabelRunID: f.runID, core.LabelRole: core.RoleMain,
	})

	twin := f.tag()
	f.must(f.tryBuild(twin, f.dockerfile("RUN true"), core.BuildOptions{}))
	other := f.build(f.dockerfile("RUN true"), core.BuildOptions{})
	all, err = f.rt.ListImages(f.ctx)
	f.must(err)
	for _, tag := range []string{twin, other} { // maybe of one image
		if !slices.ContainsFunc(all, func(info core.ImageInfo) bool { return info.Tag == tag }) {
			f.Errorf("one of two tags of the same Dockerfile is not listed: %s", tag)
		}
	}

	// What is built is a base, which no registry has. An entrypoint of a stage of its own
	// is for the command of that.
	again := f.build("FROM "+base+"\nENTRYPOINT []\nCMD echo \"$GREETING again from $(id -u)\"\n", core.BuildOptions{})
	f.wantSaid(again, "", "hello there again from 1000\n")
}

func contextFiles(f *fixture) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	tag := f.build(f.dockerfile(`COPY . /context/`, `ADD deep/er/file /added`), core.BuildOptions{
		Context: fstest.MapFS{
			".dockerignore": {Mode: 0o644, Data: []byte("ignored\ndeep\nodd*\n")},
			"hidden":        {Mode: 0o644, Data: []byte("it is not hidden\n")},
			"beneath":       {Mode: 0o644, Data: []byte("it is beneath\n")},
		},
		ContextFiles: map[string][]byte{
			"bytes": all, "empty": {}, "deep/er/file": []byte("it is deep\n"), "Dockerfile": []byte("it is no Dockerfile\n"),
			"two words": []byte("it has two words\r\n"), "hidden": []byte("it hides\n"), "ignored": []byte("it is not ignored\n"),
			"odd \n[a]*?\\ ": []byte("it is odd\n"),
		},
	})
	f.wantSaid(tag, `cd /context && cat bytes empty deep/er/file Dockerfile "two words" hidden ignored beneath odd* /added`,
		string(all)+"it is deep\nit is no Dockerfile\nit has two words\r\nit hides\nit is not ignored\nit is beneath\nit is odd\nit is deep\n")
}

func contextFolder(f *fixture) {
	file := func(content string) *fstest.MapFile { return &fstest.MapFile{Mode: 0o644, Data: []byte(content)} }
	tag := f.build(f.dockerfile(`COPY . /context/`), core.BuildOptions{Context: fstest.MapFS{
		".dockerignore": file("# what stays\n*.secret\nignored\n!keep.secret\n/deep/skip\n**/*.tmp\n"),
		"run.sh":        {Mode: 0o755, Data: []byte("#!/bin/sh\necho it runs\n")},
		"plain.sh":      file("#!/bin/sh\n"),
		"folder":        {Mode: fs.ModeDir | 0o755},
		"deep":          {Mode: fs.ModeDir | 0o755},
		"deep/file":     file("it is deep\n"),
		"deep/skip":     file(""),
		"deep/a.tmp":    file(""),
		"a.secret":      file(""),
		"keep.secret":   file(""),
		"ignored":       {Mode: fs.ModeDir | 0o755},
		"ignored/file":  file(""),
	}})
	f.wantSaid(tag, `cd /context && ./run.sh && cat deep/file
		[ -x plain.sh ] && echo plain.sh can be executed
		[ -d folder ] && echo folder
		for name in keep.secret a.secret ignored deep/skip deep/a.tmp; do [ -e $name ] && echo $name; done; true`,
		"it runs\nit is deep\nfolder\nkeep.secret\n")
}

func linkedContext() fs.FS {
	link := func(target string) *fstest.MapFile {
		return &fstest.MapFile{Mode: fs.ModeSymlink | 0o777, Data: []byte(target)}
	}
	return fstest.MapFS{
		"file": {Mode: 0o644, Data: []byte("it is linked\n")}, "link": link("file"), "broken": link("/no/such/file"),
		"outside": link("../../etc"),
	}
}

func contextLinks(f *fixture) {
	tag := f.build(f.dockerfile(`COPY . /context/`), core.BuildOptions{Context: linkedContext()})
	f.wantSaid(tag, `cd /context && cat link && for name in link broken outside; do readlink $name; done`, "it is linked\nfile\n/no/such/file\n../../etc\n")
}

// lockedContext is a folder of which some names cannot be opened.
type lockedContext struct {
	files  fstest.MapFS
	locked string
}

func (l lockedContext) Open(name string) (fs.File, error) {
	if name == l.locked {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return l.files.Open(name)
}

// pipedContext notes when its .dockerignore is opened.
type pipedContext struct {
	fs.StatFS
	opened atomic.Bool
}

func (p *pipedContext) Open(name string) (fs.File, error) {
	if name == ".dockerignore" {
		p.opened.Store(true)
	}
	return p.StatFS.Open(name)
}

func unreadableContext(f *fixture) {
	for _, test := range []struct {
		name, what string
		mode       fs.FileMode
	}{
		{"locked-file", "a file that cannot be opened", 0o644},
		{"locked-folder", "a folder that cannot be opened", fs.ModeDir | 0o755},
		{"pipe", "a named pipe", fs.ModeNamedPipe | 0o644},
		{"device", "a device", fs.ModeDevice | 0o644},
	} {
		files := fstest.MapFS{
			"a": {Mode: 0o644, Data: []byte("it is there\n")}, "z": {Mode: 0o644},
			test.name: {Mode: test.mode, Data: []byte("it is lost\n")},
		}
		of := lockedContext{files, test.name}
		tag := f.tag()
		err := f.tryBuild(tag, f.dockerfile("COPY . /context/"), core.BuildOptions{Context: of})
		f.wantField(test.what, err, "Context")
		if err != nil && !strings.Contains(err.Error(), test.name) {
			f.Errorf("%s: %v does not name it", test.what, err)
		}
		f.wantImage(tag, false)

		files[".dockerignore"] = &fstest.MapFile{Mode: 0o644, Data: []byte(test.name + "\n")}
		f.wantSaid(f.build(f.dockerfile("COPY . /context/"), core.BuildOptions{Context: of}), "cd /context && cat a && ls", "it is there\na\nz\n")
	}
	misnamed := fstest.MapFS{"a": {Mode: 0o644}, "not-UTF-8-\xff": {Mode: 0o644, Data: []byte("it is lost\n")}}
	err := f.tryBuild(f.tag(), f.dockerfile("COPY . /context/"), core.BuildOptions{Context: misnamed})
	f.wantField("a file with a name that is not UTF-8", err, "Context")
	if err != nil && !strings.Contains(err.Error(), "not-UTF-8-") {
		f.Errorf("a file with a name that is not UTF-8: %v does not name it", err)
	}
	misnamed[".dockerignore"] = &fstest.MapFile{Mode: 0o644, Data: []byte("not-UTF-8-?\n")}
	f.wantSaid(f.build(f.dockerfile("COPY . /context/"), core.BuildOptions{Context: misnamed}), "ls /context", "a\n")
	piped := &pipedContext{StatFS: fstest.MapFS{".dockerignore": {Mode: fs.ModeNamedPipe | 0o644}}}
	f.wantField("a .dockerignore that is a named pipe", f.tryBuild(f.tag(), f.dockerfile("COPY . /context/"), core.BuildOptions{Context: piped}), "Context")
	want(f, "whether that is opened, which waits for who writes into it", piped.opened.Load(), false)
	senseless := fstest.MapFS{".dockerignore": {Mode: 0o644, Data: []byte("a[\n")}}
	f.wantField("a .dockerignore of what is no pattern", f.tryBuild(f.tag(), f.dockerfile("COPY . /context/"), core.BuildOptions{Context: senseless}), "Context")
}

func buildDNS(f *fixture) {
	tag := f.build(f.dockerfile(`RUN agent "grep nameserver /etc/resolv.conf" >/servers`),
		core.BuildOptions{DNS: []string{"192.0.2.53", "192.0.2.54"}, NoCache: true})
	f.wantSaid(tag, "cat /servers", "nameserver 192.0.2.53\nnameserver 192.0.2.54\n")
}

func failedStep(f *fixture) {
	tag := f.build(f.dockerfile("RUN echo old >/version"), core.BuildOptions{})
	var steps []core.BuildProgress
	script := "echo out of " + f.runID + "; echo the reason >&2; exit 7"
	err := f.tryBuild(tag, f.dockerfile("RUN echo new >/version", "# a remark", "RUN "+script), core.BuildOptions{
		Progress: func(step core.BuildProgress) { steps = append(steps, step) },
	})
	failed := f.wantBuildError("a step that fails", err)
	want(f, "the line", failed.Line, 4)
	want(f, "the step", failed.Step, "RUN "+script)
	for _, text := range []string{"out of " + f.runID + "\n", "the reason\n"} {
		if !strings.Contains(failed.Output, text) || !strings.Contains(err.Error(), text) {
			f.Errorf("%q is missing from the output %q or the error %v", text, failed.Output, err)
		}
	}
	for _, class := range []error{core.ErrNotFound, core.ErrInvalidConfig, core.ErrUnavailable, core.ErrUnsupported} {
		if errors.Is(err, class) {
			f.Errorf("a step that fails returned %v", class)
		}
	}
	tried := stepsOf(steps, script)
	ends := slices.DeleteFunc(slices.Clone(tried), func(step core.BuildProgress) bool { return step.Status == core.BuildRunning })
	if len(ends) != 1 || ends[0].Status != core.BuildFailed {
		f.Errorf("the step was to fail once, not as told: %+v", tried)
	}
	f.wantSaid(tag, "cat /version", "old\n")
}

// stepsOf returns the events of the steps with a text in their name.
func stepsOf(steps []core.BuildProgress, text string) []core.BuildProgress {
	return slices.DeleteFunc(slices.Clone(steps), func(step core.BuildProgress) bool { return !strings.Contains(step.Name, text) })
}

// statusesOf returns what became of a step, event by event.
func statusesOf(steps []core.BuildProgress, number int) (statuses []core.BuildStatus) {
	for _, step := range steps {
		if step.Step == number {
			statuses = append(statuses, step.Status)
		}
	}
	return statuses
}

func noDockerfile(f *fixture) {
	for _, test := range []struct {
		name, dockerfile string
		line             int // 0: there is none to tell
	}{
		{"an unknown instruction", f.dockerfile("", "BUILD everything"), 3},
		{"an instruction without arguments", f.dockerfile("RUN true", "ENV"), 3},
		{"an empty Dockerfile", "", 0},
		{"a command that is not UTF-8", f.dockerfile("RUN true", "RUN echo a\xffb"), 3},
	} {
		tag := f.tag()
		err := f.tryBuild(tag, test.dockerfile, core.BuildOptions{})
		f.wantField(test.name, err, "Dockerfile")
		if test.line > 0 {
			want(f, "the line of "+test.name, f.wantBuildError(test.name, err).Line, test.line)
		}
		f.wantImage(tag, false)
	}
}

func missingSources(f *fixture) {
	tag := f.tag()
	for _, base := range []string{f.missingImage(), f.h.UnreachableImage} {
		err := f.tryBuild(tag, "FROM "+base+"\nRUN true\n", core.BuildOptions{})
		class := core.ErrNotFound
		if base == f.h.UnreachableImage {
			class = core.ErrUnavailable
		}
		f.wantClass("a build on "+base, err, class)
	}
	err := f.tryBuild(tag, f.dockerfile("COPY there no-such-file /copied/"), core.BuildOptions{
		ContextFiles: map[string][]byte{"there": nil},
	})
	f.wantField("a copy of what does not exist", err, "ContextFiles")
	want(f, "the line", f.wantBuildError("a copy of what does not exist", err).Line, 2)
	f.wantImage(tag, false)
}

func buildCache(f *fixture) {
	numbers := func(input string, noCache bool) string {
		f.Helper()
		tag := f.build(
			f.dockerfile(`RUN echo $RANDOM$RANDOM$RANDOM >/first`, `COPY input /input`, `RUN echo $RANDOM$RANDOM$RANDOM >/second`),
			core.BuildOptions{NoCache: noCache, ContextFiles: map[string][]byte{"input": []byte(input + f.runID)}},
		)
		return f.output(f.ofImage(tag, "cat /first /second"))
	}
	first, second, _ := strings.Cut(numbers("one", false), "\n")
	want(f, "the numbers of the same build", numbers("one", false), first+"\n"+second)
	changedFirst, changedSecond, _ := strings.Cut(numbers("two", false), "\n")
	want(f, "the number of the step before what has changed", changedFirst, first)
	if changedSecond == second {
		f.Errorf("the step after what has changed is reused: its number is %q", second)
	}
	anewFirst, anewSecond, _ := strings.Cut(numbers("one", true), "\n")
	if anewFirst == first || anewSecond == second {
		f.Errorf("NoCache reused a step: the numbers were %q and %q, and then %q and %q", first, second, anewFirst, anewSecond)
	}
}

func buildArgs(f *fixture) {
	dockerfile := strings.Join([]string{
		`ARG BASE=no-such-image`,
		`FROM $BASE`,
		`ARG ODD`,
		`ARG KEPT=kept`,
		`ARG EMPTY="unless given"`,
		`RUN printf '%s|' "$ODD" "$KEPT" "$EMPTY" >/values`,
	}, "\n")
	values := []string{"it's $HOME \"quoted\" `x` \\ ${KEPT}  two  blanks ", "another"}
	tags := make([]string, len(values))
	errs := make([]error, len(values))
	var all sync.WaitGroup
	for i, value := range values { // builds at once keep their values apart
		tags[i] = f.tag()
		all.Go(func() {
			errs[i] = f.tryBuild(tags[i], dockerfile, core.BuildOptions{Args: map[string]string{"BASE": f.h.Image, "ODD": value, "EMPTY": ""}})
		})
	}
	all.Wait()
	f.must(errors.Join(errs...))
	for i, value := range values {
		f.wantSaid(tags[i], `cat /values; echo "$ODD"`, value+"|kept||\n")
	}
}

func buildProgress(f *fixture) {
	dockerfile := f.dockerfile("RUN echo first of "+f.runID, "RUN echo second of "+f.runID)
	steps := f.watchedBuild(dockerfile)
	for _, number := range []string{"first", "second"} {
		told := stepsOf(steps, "RUN echo "+number)
		var output []byte
		for _, step := range told {
			output = append(output, step.Output...)
		}
		want(f, "the output of the "+number+" step", string(output), number+" of "+f.runID+"\n")
		if len(told) > 0 {
			want(f, "its outcome", told[len(told)-1].Status, core.BuildDone)
		}
	}
	again := stepsOf(f.watchedBuild(dockerfile), "RUN echo second")
	if len(again) == 0 || again[len(again)-1].Status != core.BuildCached {
		f.Errorf("the step of the same build is told as %+v", again)
	}
}

// watchedBuild builds and checks what is told of its steps.
func (f *fixture) watchedBuild(dockerfile string) (steps []core.BuildProgress) {
	f.Helper()
	f.build(dockerfile, core.BuildOptions{Progress: func(step core.BuildProgress) {
		steps = append(steps, step) // the race detector sees concurrent calls
	}})
	begun := 0
	for _, step := range steps {
		if step.Step == begun+1 {
			begun++
		}
		if step.Step < 1 || step.Step > begun || step.Name == "" || step.Current < 0 || step.Total < 0 {
			f.Errorf("after the beginning of %d steps one is told as %+v", begun, step)
		}
	}
	for number := range begun {
		statuses := statusesOf(steps, number+1)
		last := len(statuses) - 1
		begins := slices.IndexFunc(statuses, func(status core.BuildStatus) bool { return status != core.BuildRunning })
		if begins < 1 || (statuses[last] != core.BuildDone && statuses[last] != core.BuildCached) {
			f.Errorf("step %d is told as %q", number+1, statuses)
		}
	}
	if begun < 3 {
		f.Errorf("%d steps of three were told", begun)
	}
	return steps
}

func cancelledBuild(f *fixture) {
	builds := f.builds()
	old := f.build(f.dockerfile("RUN echo old >/version"), core.BuildOptions{})
	for _, tag := range []string{f.tag(), old} {
		ctx, cancel := context.WithCancel(f.ctx)
		defer cancel()
		waiting := make(chan struct{})
		var written []byte
		var once sync.Once
		building := begin("BuildImage", func() (struct{}, error) {
			return struct{}{}, builds.BuildImage(ctx, f.dockerfile("RUN echo waits for "+tag+"; sleep 1000"), tag, core.BuildOptions{
				RunID: f.runID,
				Progress: func(step core.BuildProgress) {
					if written = append(written, step.Output...); bytes.Contains(written, []byte("waits for "+tag+"\n")) {
						once.Do(func() { close(waiting) })
					}
				},
			})
		})
		select {
		case <-waiting:
		case <-building.done:
			f.Fatalf("the build has ended: %v", building.err)
		case <-time.After(patience):
			f.Fatalf("the step's output has not been told after %s", patience)
		}
		cancel()
		_, err := building.until("its context has ended").result(f)
		f.wantClass("a build whose context ended meanwhile", err, context.Canceled)
		f.wantImage(tag, tag == old)
	}
	f.wantSaid(old, "cat /version", "old\n")
}

func impossibleBuilds(f *fixture) {
	refuse := func(field, tag string, opts core.BuildOptions) {
		f.Helper()
		opts.Progress = func(step core.BuildProgress) { f.Errorf("it was built for a wrong %s: %+v", field, step) }
		err := f.tryBuild(tag, f.dockerfile("RUN true"), opts)
		f.wantField(fmt.Sprintf("building %q of %+v", tag, opts), err, field)
	}
	for _, tag := range []string{"", "Upper", "two words", "-x", core.ImagePrefix + "x:", core.ImagePrefix + "x@sha256:" + strings.Repeat("0", 64)} {
		refuse("tag", tag, core.BuildOptions{})
	}
	tag := f.tag()
	for _, name := range []string{"", "/x", "../x", "x/../../y", "x//y", "."} {
		refuse("ContextFiles", tag, core.BuildOptions{ContextFiles: map[string][]byte{name: nil}})
	}
	refuse("ContextFiles", tag, core.BuildOptions{ContextFiles: map[string][]byte{"x": nil, "x/y": nil}})
	refuse("DNS", tag, core.BuildOptions{DNS: []string{"dns.example"}})
	refuse("Args", tag, core.BuildOptions{Args: map[string]string{"two words": "x"}})
	refuse("Labels", tag, core.BuildOptions{Labels: map[string]string{core.LabelManaged: "false"}})
	f.wantImage(tag, false)
}

func imageExists(f *fixture) {
	f.dropImage()
	f.wantImage(f.h.Image, true)
	f.wantImage(f.pullImage(), false)
	f.wantImage(f.pullImage(), false) // the first time has not pulled it
	f.wantImage(f.missingLocalImage(), false)
	tag := f.tag()
	f.wantImage(tag, false)
	f.must(f.tryBuild(tag, f.dockerfile("RUN true"), core.BuildOptions{}))
	f.wantImage(tag, true)
	f.must(f.rt.RemoveImage(f.ctx, tag))
	f.wantImage(tag, false)
	tag = f.build(f.dockerfile("RUN echo "+f.runID), core.BuildOptions{})
	all, err := f.rt.ListImages(f.ctx)
	f.must(err)
	for _, info := range all {
		if info.Tag == tag {
			f.must(f.rt.RemoveImage(f.ctx, info.ID))
		}
	}
	f.wantImage(tag, false)
	if f.h.Unreachable == nil {
		return
	}
	manager, err := core.BuildManagerOf(f.unreachable())
	f.must(err)
	_, err = manager.ImageExists(f.ctx, f.h.Image)
	f.wantClass("ImageExists of an engine that does not answer", err, core.ErrUnavailable)
}

func imageHomes(f *fixture) {
	f.dropImage()
	const account = `RUN echo builder:x:1234:1234::/home/of-the-builder:/bin/sh >>/etc/passwd`
	for _, test := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"HOME", []string{account, "ENV HOME=/some/where", "USER builder"}, "/some/where"},
		{"a user", []string{account, "USER builder"}, "/home/of-the-builder"},
		{"a user and a group", []string{account, "USER builder:root"}, "/home/of-the-builder"},
		{"a user's number", []string{account, "USER 1234"}, "/home/of-the-builder"},
		{"a number without a user", []string{"USER 4321"}, "/root"},
		{"root", []string{"USER root"}, "/root"},
	} {
		tag := f.build(f.dockerfile(test.lines...), core.BuildOptions{})
		want(f, "the home folder of an image with "+test.name, f.builds().GetImageHomeDir(f.ctx, tag), test.want)
	}
	for _, image := range []string{f.h.Image, f.missingLocalImage(), f.pullImage(), "", "Upper"} {
		want(f, fmt.Sprintf("the home folder of %q", image), f.builds().GetImageHomeDir(f.ctx, image), "/root")
	}
	f.wantImage(f.pullImage(), false)
	want(f, "the number of containers", len(f.list()), 0)
}

func pulledBase(f *fixture) {
	f.dropImage()
	tag := f.build("FROM "+f.pullImage()+"\nRUN echo pulled >/how\n", core.BuildOptions{})
	f.wantSaid(tag, "cat /how", "pulled\n")
}
